"""Evaluate a trained run, class by class."""

from __future__ import annotations

import sys

from trainctl.cli.options import CHECKPOINT, JSON, RUN_OR_URL, TRUST, Argument, Command, Option
from trainctl.errors import ConfigError
from trainctl.training.startup import collector_paused, importing

COMMAND = Command(
    __name__,
    __doc__,
    (
        RUN_OR_URL,
        Argument("dataset.KEY=VALUE", "other data of the same kind; also dataset=NAME", least=0, most=None),
    ),
    (
        Option(
            "--split",
            "which samples (default: test, or val without a test)",
            choices=("test", "val", "train", "all"),
        ),
        CHECKPOINT,
        JSON,
        Option("--allow-change", "evaluate although the data has changed since training"),
        TRUST,
    ),
    (
        ("The newest run, on its own test split.", "trainctl eval last"),
        ("All rows of another file.", "trainctl eval first dataset.path=march.csv --split all"),
    ),
    {1: "the values are not those that the run recorded, or an internal error", 3: "", 4: "", 8: ""},
)


def run(words: list[str]) -> int:
    """Evaluate a run on its own data, or on the dataset that is given.

    With the run's own data, batches, precision and number of threads the values equal the recorded ones to
    the last digit; where they do not, the exit code is 1. On another device or with another torch they may
    differ by 2%. The run directory is not written to. Raises ConfigError where the data does not fit the
    model, CheckpointError without a usable checkpoint, UnsafeInputError for changed plugins.
    """
    asked = COMMAND.parse(words)
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

    trained = load_run(asked.run, asked["--checkpoint"], trust_plugins=asked["--trust-plugins"])
    dataset = None
    if asked.overrides:
        dataset = read_with_dataset(trained.directory / "config.yaml", asked.overrides).dataset
    found = score(trained, asked["--split"], dataset, allow_change=asked["--allow-change"])

    from trainctl.ui.evaluation import as_json, show

    if asked["--json"]:
        for notice in (*trained.notices, *found.notices):
            print(notice, file=sys.stderr)
        print(as_json(trained, found))
    else:
        show(trained, found)
    return 1 if found.is_off else 0
