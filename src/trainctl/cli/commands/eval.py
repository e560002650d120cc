"""Evaluate a run class by class: eval RUN [--split test|val|train|all] [dataset.KEY=VALUE …]."""

from __future__ import annotations

import sys

from trainctl.cli.options import CHECKPOINT, parse
from trainctl.errors import ConfigError
from trainctl.training.startup import collector_paused, importing

_SPLITS = ("test", "val", "train", "all")
_FLAGS = ("--json", "--allow-change", "--trust-plugins")


def run(words: list[str]) -> int:
    """Evaluate a run on its own data, or on the dataset that is given.

    With the run's own data, batches, precision and number of threads the values equal the recorded ones to
    the last digit. The run directory is not written to. Raises ConfigError where the data does not fit the
    model, CheckpointError without a usable checkpoint, UnsafeInputError for changed plugins.
    """
    asked = parse("eval", words, {"--split": _SPLITS, **CHECKPOINT}, _FLAGS, overrides=True)
    for word in asked.overrides:
        if word.partition("=")[0].lstrip("+").partition(".")[0] != "dataset":
            raise ConfigError(
                f"{word}: eval takes only dataset=NAME and dataset.KEY=VALUE",
                "all other settings are the run's: change them with trainctl resume, or train another run",
            )
    with importing():
        from trainctl.inference.evaluate import score
        from trainctl.inference.trained_run import load_run
    with collector_paused():
        from trainctl.config.dataset_override import read_with_dataset

    trained = load_run(
        asked.run,
        asked.options.get("--checkpoint", "best"),
        trust_plugins="--trust-plugins" in asked.flags,
    )
    dataset = None
    if asked.overrides:
        dataset = read_with_dataset(trained.directory / "config.yaml", asked.overrides).dataset
    allow_change = "--allow-change" in asked.flags
    found = score(trained, asked.options.get("--split"), dataset, allow_change=allow_change)

    from trainctl.ui.evaluation import as_json, show

    if "--json" in asked.flags:
        for notice in (*trained.notices, *found.notices):
            print(notice, file=sys.stderr)
        print(as_json(trained, found))
    else:
        show(trained, found)
    return 0
