"""Find a learning rate: tune lr [KEY=VALUE …] [--from LR --to LR --steps N] [--json] [--plot FILE]."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.cli.built_config import built_from
from trainctl.errors import ConfigError, StorageError, nearest

if TYPE_CHECKING:
    from trainctl.analysis.lr_finder import RangeTest

_SETTINGS = ("lr",)
_VALUED = ("--from", "--to", "--steps", "--plot", "--config-dir", "--config-name")
_OPTIONS = (*_VALUED, "--json")
_FEWEST = 20


@dataclass(frozen=True)
class _Asked:
    """What the words ask for."""

    overrides: tuple[str, ...]
    start: float
    end: float
    steps: int
    as_json: bool
    plot: Path | None
    config_dir: str | None
    config_name: str | None


def run(words: Sequence[str]) -> int:
    """Train a few steps at learning rates from tiny to absurd, and say which one to type.

    Nothing is kept of the steps, and no run directory is made. Raises NoLearningRateError (exit 1) where the
    loss does not fall or explodes at once, NotFiniteError (exit 6) where it is not finite from the start,
    StorageError where the plot cannot be written, ConfigError as training does.
    """
    asked = _parse(words)
    if asked.plot is not None:
        _check_place(asked.plot)
    with built_from(asked.overrides, asked.config_dir, asked.config_name) as (config, built):
        from trainctl.analysis.lr_finder import range_test

        result = range_test(built, asked.start, asked.end, asked.steps)

    title = f"{config.model.name} on {built.data.name}, {config.loss.name}, {config.optim.name}"
    from trainctl.ui import tune

    if asked.as_json:
        print(json.dumps(_values(result), indent=2))
    else:
        tune.show(result, title, config.display.mode)
    if asked.plot is not None:
        try:
            tune.save_picture(result, title, asked.plot)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise StorageError(f"--plot {asked.plot}: cannot be written: {reason}", "name another") from error
        if not asked.as_json:
            print(f"plot: {asked.plot}")
    return 0


def _values(result: RangeTest) -> dict[str, Any]:
    from trainctl.ui.tune import typed

    return {
        "suggestion": result.suggestion,
        "word": typed(result.suggestion),
        "steepest": result.steepest,
        "lowest": result.lowest,
        "tenth_of_lowest": result.tenth,
        "exploded": result.exploded,
        "batch_size": result.batch_size,
        "points": [
            {"lr": point.lr, "loss": point.loss, "smoothed": point.smoothed} for point in result.points
        ],
    }


def _parse(words: Sequence[str]) -> _Asked:
    _check_setting(words)
    overrides: list[str] = []
    options: dict[str, str] = {}
    left = list(words[1:])
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in _OPTIONS or (name == "--json" and equals):
            close = nearest(name, _OPTIONS)
            remedy = f"did you mean {close}? " if close else ""
            raise ConfigError(f"{word}: tune has no such option", f"{remedy}there are: {', '.join(_OPTIONS)}")
        if name in _VALUED and not equals and left:
            value = left.pop(0)
        if name in _VALUED and not value:
            raise ConfigError(f"{name}: needs a value", f"trainctl tune lr {name} …")
        options[name] = value
    start, end = _rate(options, "--from", 1e-7), _rate(options, "--to", 10.0)
    if start >= end:
        raise ConfigError(f"--from {start:g} --to {end:g}: the first must be the smaller")
    steps = options.get("--steps", "100")
    if not steps.isdecimal() or not _FEWEST <= int(steps) < 10**6:
        raise ConfigError(f"--steps {steps}: must be a whole number, at least {_FEWEST}", "--steps 100")
    plot = options.get("--plot")
    return _Asked(
        tuple(overrides),
        start,
        end,
        int(steps),
        "--json" in options,
        None if plot is None else Path(plot).expanduser(),
        options.get("--config-dir"),
        options.get("--config-name"),
    )


def _check_setting(words: Sequence[str]) -> None:
    """Raise ConfigError unless the first word says what to tune."""
    if not words or words[0].startswith("-") or "=" in words[0]:
        raise ConfigError("tune needs to know what", "trainctl tune lr [KEY=VALUE …]")
    if words[0] not in _SETTINGS:
        raise ConfigError(
            f"tune {words[0]}: only lr can be tuned", "trainctl tune lr; a sweep tries other settings"
        )


def _rate(options: dict[str, str], name: str, default: float) -> float:
    if name not in options:
        return default
    try:
        rate = float(options[name])
    except ValueError:
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise ConfigError(f"{name} {options[name]}: must be a number greater than 0", f"{name} {default:g}")
    return rate


def _check_place(plot: Path) -> None:
    """Before the steps: raise ConfigError for what cannot be a picture, StorageError without a folder."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot: matplotlib is not installed", "pip install matplotlib")
    if plot.is_dir() or plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--plot {plot}: must be a .png, .svg or .pdf file", "--plot lr.png")
    if not plot.parent.is_dir():
        raise StorageError(f"--plot {plot}: there is no folder {plot.parent}", "make it, or name another")
