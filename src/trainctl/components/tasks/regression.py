"""Regression: targets are values, one or several a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from trainctl.components.tasks._base import Details, Residuals, Task, Worst
from trainctl.registry import TASKS

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_WORST = 5


@TASKS.register("regression")
class Regression(Task):
    """Values: targets are floats of shape (N, outputs)."""

    name = "regression"
    loss = "mse"
    loss_targets = ("value", "binary", "counts", "labels", "shares", "sign")
    metrics = ("mse", "mae", "r2")
    reads_out = True
    example = ("dataset=synthetic", "++dataset.task=regression", "++dataset.outputs=3")

    def converted(self, where: str, targets: Any) -> Tensor:
        """Floats (N, outputs): float64 where another type may have more digits than float32."""
        values = super().converted(where, targets)
        return values if values.dtype == torch.float32 else values.to(torch.float64)

    def details(self, kept: Tensor, targets: Tensor, classes: Sequence[str]) -> Details:
        outputs, targets = kept.reshape(len(targets), -1), targets.reshape(len(targets), -1)
        names = tuple(classes) or ("",) * outputs.shape[1]
        return Details(
            residuals=tuple(_residuals(outputs, targets, names)), worst=tuple(_worst(outputs, targets, names))
        )


def _residuals(outputs: Tensor, targets: Tensor, names: Sequence[str]) -> Iterator[Residuals]:
    wanted, given = targets.to(torch.float64).numpy(), outputs.to(torch.float64).numpy()
    for column, name in enumerate(names):
        target = wanted[:, column]
        residual = target - given[:, column]
        deviation = float(numpy.square(target - target.mean()).sum())
        quantiles = numpy.quantile(residual, QUANTILES).tolist()
        yield Residuals(
            column + 1,
            float(residual.mean()),
            float(residual.std()),
            dict(zip(QUANTILES, quantiles, strict=True)),
            1 - float(numpy.square(residual).sum()) / deviation if deviation > 0 else None,
            name,
        )


def _worst(outputs: Tensor, targets: Tensor, names: Sequence[str]) -> Iterator[Worst]:
    """The samples with the largest residuals, each in its worst output, in deviations of that target."""
    residuals = (targets.to(torch.float64) - outputs.to(torch.float64)).abs().nan_to_num(nan=torch.inf)
    # Else those of the target with the largest unit would be all there is to see.
    unit = targets.to(torch.float64).std(0, correction=0)
    largest, column = (residuals / torch.where(unit > 0, unit, 1.0)).max(1)
    for row in largest.argsort(descending=True, stable=True)[:_WORST].tolist():
        output = int(column[row])
        values = float(targets[row, output]), float(outputs[row, output])
        yield Worst(row + 1, output + 1, *values, names[output])
