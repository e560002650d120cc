"""Train every experiment for two steps: does each recipe in ``conf/experiment`` still run?

    python -m tests.smoke [EXPERIMENT …]

Data that is absent is replaced by made-up data of the same shape, and the line says so. Exit 1 when an
experiment fails.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from trainctl.build import build_data
from trainctl.cli import main
from trainctl.commands.ls import find_options
from trainctl.compose import Composer
from trainctl.config import show
from trainctl.errors import MissingDataError, TrainctlError
from trainctl.ui.errors import show_error

_STEPS = 2


def stand_in(words: list[str]) -> list[str]:
    """The words that replace absent data, or none when the data is there."""
    try:
        build_data(Composer().compose(words).config.dataset)
    except MissingDataError as missing:
        arguments = {"samples": 640, "test_samples": 128, **missing.stand_in}
        return ["dataset=synthetic", *(f"dataset.{key}={show(value)}" for key, value in arguments.items())]
    return []


def smoke(name: str, folder: Path) -> bool:
    """Train one experiment for two steps; prints one line, returns whether it went well."""
    words = [f"experiment={name}"]
    started = time.perf_counter()
    try:
        replaced = stand_in(words)
    except TrainctlError as error:
        show_error(error)
        code = error.exit_code
    else:
        # Validation is held out as a share, because the made-up data is small.
        words += [*replaced, *(["dataset.val=0.1"] if replaced else [])]
        code = main(
            [*words, f"train.max_steps={_STEPS}", "display.mode=none", f"hydra.run.dir={folder / name}"]
        )
    result = "ok" if code == 0 else f"FAILED (exit {code})"
    data = "made-up data, the real one is absent" if code == 0 and replaced else ""
    print(f"{name:<24} {result}  {time.perf_counter() - started:.1f} s  {data}".rstrip(), flush=True)
    return code == 0


def run(names: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="trainctl-smoke-") as folder:
        results = [smoke(name, Path(folder)) for name in names or find_options()["experiment"]]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
