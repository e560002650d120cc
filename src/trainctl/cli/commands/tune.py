"""Find a learning rate: train a few steps at rates from tiny to huge."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainctl.cli.built_config import built_from
from trainctl.cli.options import CONFIG, JSON, OVERRIDES, Argument, Command, Option, output_file, whole_number
from trainctl.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from trainctl.analysis.lr_finder import RangeTest


def _rate(option: str, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise ConfigError(f"{option} {text}: must be a number greater than 0", f"{option} 0.1")
    return rate


COMMAND = Command(
    __name__,
    __doc__,
    (Argument("lr", "the setting to tune; only lr so far", noun="the setting to tune"), OVERRIDES),
    (
        Option("--from", "smallest learning rate", "LR", default="1e-7", read=_rate),
        Option("--to", "largest learning rate", "LR", default="10", read=_rate),
        whole_number("--steps", "number of steps", "100", least=20),
        JSON,
        output_file("--plot", "plot the loss over the learning rate", "lr.svg", suffix=".svg"),
        *CONFIG,
    ),
    (
        ("A rate for the default config.", "trainctl tune lr"),
        (
            "For a model and an optimizer, with a picture.",
            "trainctl tune lr model=cnn optim=sgd --plot lr.svg",
        ),
    ),
    {1: "no rate lets the loss fall, or an internal error", 3: "", 6: "", 8: ""},
)


def run(words: Sequence[str]) -> int:
    """Train a few steps at learning rates from tiny to huge, and suggest one.

    The steps are discarded, and no run directory is made. Raises NoLearningRateError (exit 1) where the loss
    does not fall or explodes at once, NotFiniteError (exit 6) where it is not finite from the start,
    StorageError where the plot cannot be written, ConfigError as training does.
    """
    asked = COMMAND.parse(words)
    if asked.run != "lr":
        raise ConfigError(
            f"tune {asked.run}: only lr can be tuned", "trainctl tune lr; a sweep tries other settings"
        )
    start, end, plot = asked["--from"], asked["--to"], asked["--plot"]
    if start >= end:
        raise ConfigError(f"--from {start:g} --to {end:g}: the first must be the smaller")
    with built_from(asked) as (config, built):
        from trainctl.analysis.lr_finder import range_test

        result = range_test(built, start, end, asked["--steps"])

    from trainctl.components.losses.auto import loss_name
    from trainctl.ui import tune

    loss = loss_name(config.loss.name, built.data.task)
    title = f"{config.model.name} on {built.data.name}, {loss}, {config.optim.name}"

    if asked["--json"]:
        print(json.dumps(_values(result), indent=2))
    else:
        tune.show(result, title, config.display.mode)
    if plot is not None:
        try:
            tune.save_picture(result, title, plot)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise StorageError(f"--plot {plot}: cannot be written: {reason}", "name another file") from error
        if not asked["--json"]:
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
