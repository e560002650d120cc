"""Find a learning rate: tune lr [KEY=VALUE …] [--from LR --to LR --steps N] [--json] [--plot FILE]."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.cli.built_config import built_from
from trainctl.cli.options import CONFIG, output_file, sort, whole_number
from trainctl.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from trainctl.analysis.lr_finder import RangeTest

_OPTIONS = {"--from": "1e-7", "--to": "10", "--steps": "100", "--plot": "lr.svg", **CONFIG}
_LEAST_STEPS = 20


def run(words: Sequence[str]) -> int:
    """Train a few steps at learning rates from tiny to huge, and suggest one.

    The steps are discarded, and no run directory is made. Raises NoLearningRateError (exit 1) where the loss
    does not fall or explodes at once, NotFiniteError (exit 6) where it is not finite from the start,
    StorageError where the plot cannot be written, ConfigError as training does.
    """
    _check_setting(words)
    overrides, given, flags = sort("tune", words[1:], _OPTIONS, ("--json",))
    start, end = _rate(given, "--from", 1e-7), _rate(given, "--to", 10.0)
    if start >= end:
        raise ConfigError(f"--from {start:g} --to {end:g}: the first must be the smaller")
    steps = whole_number(given, "--steps", 100, least=_LEAST_STEPS)
    plot = _plot_file(given["--plot"]) if "--plot" in given else None
    with built_from(overrides, given) as (config, built):
        from trainctl.analysis.lr_finder import range_test

        result = range_test(built, start, end, steps)

    title = f"{config.model.name} on {built.data.name}, {config.loss.name}, {config.optim.name}"
    from trainctl.ui import tune

    if "--json" in flags:
        print(json.dumps(_values(result), indent=2))
    else:
        tune.show(result, title, config.display.mode)
    if plot is not None:
        try:
            tune.save_picture(result, title, plot)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise StorageError(f"--plot {plot}: cannot be written: {reason}", "name another file") from error
        if "--json" not in flags:
            print(f"plot: {plot}")
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


def _check_setting(words: Sequence[str]) -> None:
    """Raise ConfigError unless the first word is a setting that can be tuned."""
    if not words or words[0].startswith("-") or "=" in words[0]:
        raise ConfigError("tune needs the setting to tune", "trainctl tune lr [KEY=VALUE …]")
    if words[0] != "lr":
        raise ConfigError(
            f"tune {words[0]}: only lr can be tuned", "trainctl tune lr; a sweep tries other settings"
        )


def _rate(options: Mapping[str, str], name: str, default: float) -> float:
    try:
        rate = float(options.get(name, default))
    except ValueError:
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise ConfigError(f"{name} {options[name]}: must be a number greater than 0", f"{name} {default:g}")
    return rate


def _plot_file(text: str) -> Path:
    """Checked before the steps: raises ConfigError for what cannot be a picture."""
    if Path(text).suffix.lower() != ".svg":
        raise ConfigError(f"--plot {text}: must be an .svg file", "--plot lr.svg")
    return output_file("--plot", text, "lr.svg")
