"""A step that was not finite, once more: replay CAPSULE [--device DEVICE] [--trust-plugins]."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trainctl.errors import ConfigError, TrainctlError, nearest
from trainctl.paths import short_path
from trainctl.registry import plugins
from trainctl.runs.directory import find
from trainctl.training.startup import collector_paused, importing

_OPTIONS = ("--device", "--trust-plugins")
_REMEDY = "trainctl replay CAPSULE: a folder RUN/capsules/step-N, a RUN, or last"


def run(words: Sequence[str]) -> int:
    """Run a capsule's step again and name where its first value appears that is not finite.

    Returns 0 when it was found. Raises TrainctlError (exit 1) where the step is finite this time, ConfigError
    for words that name nothing, CheckpointError for what is damaged or no capsule, UnsafeInputError for what
    could run code: a pickle, a link, a plugin that is not the run's.
    """
    path, device, trust_plugins = _parse(words)
    with importing():
        from trainctl.analysis.replay import choose_device, replay
        from trainctl.checkpoint import bad_step as capsule
    if (path / "run.json").is_file():
        path = capsule.newest(path)
        print(f"the newest capsule: {short_path(path)}", file=sys.stderr)
    elif not (path / "manifest.json").is_file() and path.parent.name != "capsules":
        if (path / "sweep.json").is_file():
            raise ConfigError(f"{path}: this is a sweep of several runs", f"give one of them: {path / '0'}")
        raise ConfigError(f"{path}: there is no capsule and no run here", _REMEDY)
    kept = capsule.read(path)

    def trusted(named: list[str]) -> None:
        if not trust_plugins:
            plugins.refuse_changed(named, kept.plugins)

    with collector_paused():
        from trainctl.config.stored_config import parse_config

        config = parse_config(kept.config, f"{path}/state.json", trusted)
    result = replay(kept, config, choose_device(kept, device))

    from trainctl.ui.replay import show

    show(result)
    if result.where is None:
        raise TrainctlError(
            f"step {result.step} is finite this time: when it was trained, {result.why}",
            "other hardware, library versions or random numbers outside of torch may explain it",
        )
    return 0


def _parse(words: Sequence[str]) -> tuple[Path, str | None, bool]:
    """The folder of a capsule or of a run, the device, whether plugins are trusted."""
    plain: list[str] = []
    device, trust_plugins, left = None, False, list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            plain.append(word)
        elif word == "--trust-plugins":
            trust_plugins = True
        elif name == "--device":
            device = value if equals or not left else left.pop(0)
            if not device:
                raise ConfigError("--device: needs a value", "--device cpu, --device cuda")
        else:
            close = nearest(name, _OPTIONS)
            hint = f"did you mean {close}? " if close else ""
            raise ConfigError(f"{name}: replay has no such option", f"{hint}there are: {', '.join(_OPTIONS)}")
    if len(plain) != 1:
        what = f"replay takes one CAPSULE, not {len(plain)}" if plain else "replay needs a CAPSULE"
        raise ConfigError(what, _REMEDY)
    if Path(plain[0]).is_dir():
        return Path(plain[0]).absolute(), device, trust_plugins
    if Path(plain[0]).exists():
        raise ConfigError(f"{plain[0]}: is a file, a capsule is a folder", _REMEDY)
    return find(plain[0]), device, trust_plugins
