"""How the targets of a run are taken: scaled by the training split, or as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from trainctl.components.losses._torch_classes import read_out_by_torch
from trainctl.components.tasks._base import Task, task_of, with_each_target
from trainctl.config.settings import Config
from trainctl.data import Data
from trainctl.data.readout import SCALED, Numbers, Readout
from trainctl.errors import CheckpointError, ConfigError

_LOOKED_AT = 10_000
_SETTING = "dataset.scale_target"


def output_of(task: Task, criterion: Any) -> str:
    """What an output is, as the loss declares it or torch's class that it is made from; "" where the task
    reads outputs itself. Raises ConfigError where the task must know and nothing says it."""
    if not task.reads_out:
        return ""
    declared = getattr(criterion, "output", None)
    if declared is not None:
        return str(declared)
    found = read_out_by_torch(criterion)
    # A loss of other targets is refused as such, with a better one.
    fits = getattr(criterion, "target", None) in (None, *task.loss_targets)
    if task.needs_output and fits and not found:
        raise ConfigError(
            f"{task.name} predicts {task.predictions}, but the loss {type(criterion).__name__} does not say"
            " what an output is",
            f"give the loss output = 'logit', or output = '' where outputs are {task.predictions}",
        )
    return found


def choose_readout(config: Config, data: Data, criterion: Any, loop: Any) -> Readout:
    """The scale of the targets of ``data``: that of the training split, or none.

    Raises ConfigError where ``dataset.scale_target=true`` is not possible.
    """
    task, asked = task_of(data), config.dataset.common.get("scale_target", False)
    output, reason = output_of(task, criterion), ""
    if output:
        _refuse_not_finite(data)
    can_scale = task.reads_out and task.scales
    if not can_scale:
        reason = f"the targets are {task.targets}"
    elif output != SCALED:
        reason = f"loss={config.loss.name} takes targets as they are"
    elif getattr(loop, "raw_targets", False):
        reason = f"loop={config.loop.name} takes targets as they are"
    if reason and asked is True:
        raise ConfigError(f"{_SETTING}=true: {reason}", f"use {_SETTING}=false, or loss=mse with values")
    if reason or not asked or not len(data.train):
        return Readout(output, note=f"not scaled: {reason}" if asked and can_scale else "")
    mean, std = statistics(data.train.targets)
    return Readout(output, mean, std, _note(mean, std))


def stored_readout(config: Config, data: Data, criterion: Any, stored: Mapping[str, Any]) -> Readout:
    """The scale of a run's targets, from the description of its data in a checkpoint.

    Raises CheckpointError for a damaged one, ConfigError for one that does not fit ``data``.
    """
    output = output_of(task_of(data), criterion)
    try:
        readout = Readout.made(output, stored.get("target_scale"))
    except ValueError as error:
        raise CheckpointError(f"the checkpoint holds {error}") from error
    if not readout.fits(data.output_size):
        raise ConfigError(
            f"dataset {data.name} has {data.output_size} values to predict, the run has others",
            "restore the data of the run",
        )
    scale = readout.described()
    if scale is not None:
        readout.note = _note(scale["mean"], scale["std"])
    return readout


def statistics(targets: Tensor) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of each output, in float64; of all values together where targets have more
    dimensions. 1 for a deviation of 0.

    Shape: (N, outputs) → a list each; (N, …) → a number each.
    """
    # NumPy's sums do not depend on the number of threads.
    values = targets.to(torch.float64).cpu().numpy()
    axis = 0 if values.ndim == 2 else None
    mean = values.mean(axis=axis)
    std = numpy.sqrt(numpy.square(values - mean).mean(axis=axis))
    # Rounding gives a constant column a deviation of 1e-17; dividing by it would amplify noise.
    varies = (values.min(axis=axis) < values.max(axis=axis)) & (std > 0)
    return mean.tolist(), numpy.where(varies, std, 1.0).tolist()


def _note(mean: Numbers, std: Numbers) -> str:
    if not isinstance(mean, float) and len(mean) > 1:
        what = f"each of {len(mean)} by its mean and deviation"
    else:
        center, width = (each if isinstance(each, float) else each[0] for each in (mean, std))
        what = f"mean {center:.6g}, deviation {width:.6g}"
    return f"scaled by the training split ({what}): so is the loss, but no metric and no prediction"


def prepare_targets(data: Data, readout: Readout) -> Data:
    """``data`` with the targets of every split as the loss gets them."""
    return with_each_target(data, readout.prepared, readout=readout)


def _refuse_not_finite(data: Data) -> None:
    """Raise ConfigError for NaN, infinity, and what float32 cannot hold. A loss of one's own may want NaN."""
    for label, split in data.splits.items():
        bad = (~split.targets.to(torch.float32).isfinite()).nonzero()
        if len(bad):
            raise ConfigError(
                f"dataset {data.name}: {label} target {int(bad[0][0]) + 1} is"
                f" {float(split.targets[tuple(bad[0])]):g}, not finite in float32; {len(bad)} such values",
                "replace such values, or leave out their samples",
            )


def merged(readout: Readout, given: Tensor, prepared: Tensor) -> list[str]:
    """A notice where float32 takes most of the different targets for the same."""
    if not given.is_floating_point() or not prepared.is_floating_point():
        return []
    before, after = (len(torch.unique(each[:_LOOKED_AT])) for each in (given, prepared))
    if 2 * after > before:
        return []
    remedy = (
        f"; {_SETTING}=auto keeps them apart" if readout.output == SCALED and readout.mean is None else ""
    )
    return [f"float32 cannot tell the targets apart: {before:,} different values become {after:,}{remedy}"]
