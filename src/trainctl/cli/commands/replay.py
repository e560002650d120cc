"""Run a bad step again, and show where its first bad value is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trainctl.cli.options import TRUST, Argument, Command, Option
from trainctl.errors import ConfigError, TrainctlError
from trainctl.paths import short_path
from trainctl.registry import trust
from trainctl.runs.directory import find
from trainctl.training.startup import collector_paused, importing

_KNOWN = ("manifest.json", "run.json")
_WHERE = "a folder RUN/capsules/step-N, a RUN, or last"
_REMEDY = f"trainctl replay CAPSULE: {_WHERE}"
COMMAND = Command(
    __name__,
    __doc__,
    (Argument("CAPSULE", _WHERE, offer="RUN"),),
    (
        Option("--device", "device to use (default: the one of training)", value="DEVICE", example="cpu"),
        TRUST,
    ),
    (
        ("The newest bad step of the newest run.", "trainctl replay last"),
        ("Is it the hardware? The same step on the CPU.", "trainctl replay last --device cpu"),
    ),
    {1: "the step is finite this time, or an internal error", 3: "", 4: ""},
)


def run(words: Sequence[str]) -> int:
    """Run a capsule's step again and show where its first bad value is.

    Returns 0 when it was found. Raises TrainctlError (exit 1) where the step is finite this time, ConfigError
    for wrong words, CheckpointError where the capsule is damaged or not one, UnsafeInputError for what could
    run code: a pickle, a link, a plugin that is not the run's.
    """
    asked = COMMAND.parse(words)
    path = _find(asked.words[0])
    with importing():
        from trainctl.analysis.replay import choose_device, replay
        from trainctl.checkpoint import bad_step
    if (path / "run.json").is_file():
        path = bad_step.newest(path)
        print(f"the newest capsule: {short_path(path)}", file=sys.stderr)
    capsule = bad_step.read(path)

    # A capsule lies in RUN/capsules.
    check_plugins = trust.checker(path.resolve().parents[1], trust_plugins=asked["--trust-plugins"])
    with collector_paused():
        from trainctl.config.stored_config import parse_config

        config = parse_config(capsule.config, f"{path}/state.json", check_plugins, path.resolve().parents[1])
    result = replay(capsule, config, choose_device(capsule, asked["--device"]))

    from trainctl.ui.replay import show

    show(result)
    if result.place is None:
        raise TrainctlError(
            f"step {result.step} is finite this time: when it was trained, {result.why}",
            "possible causes: other hardware, other library versions, random numbers not from torch",
        )
    return 0


def _find(word: str) -> Path:
    """The folder of a capsule or of a run."""
    if Path(word).is_file():
        raise ConfigError(f"{word}: is a file, a capsule is a folder", _REMEDY)
    path = find(word)
    if path.parent.name != "capsules" and not any((path / name).is_file() for name in _KNOWN):
        if (path / "sweep.json").is_file():
            raise ConfigError(f"{path}: this is a sweep of several runs", f"give one of them: {path / '0'}")
        raise ConfigError(f"{path}: there is no capsule and no run here", _REMEDY)
    return path
