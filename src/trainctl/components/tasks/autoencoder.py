"""Reconstruction: the input is the target."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainctl.components.tasks._base import Task, WithTargets, as_tensor
from trainctl.data.types import Data
from trainctl.errors import ConfigError
from trainctl.registry import TASKS
from trainctl.registry.protocols import Loader


@TASKS.register("autoencoder")
class Autoencoder(Task):
    """The model's input, after transform and augmentation, is the target of each batch; metrics and
    predictions are in its unit. The dataset's own targets are kept for its fingerprint, and not used."""

    name = "autoencoder"
    targets = "the inputs"
    predictions = "reconstructions"
    loss = "mse"
    loss_targets = ("value", "counts")
    metrics = ("mse", "mae")
    metric_tasks = ("autoencoder", "regression")
    best = "mse"
    example = ("dataset=digits", "++dataset.as_task=autoencoder", "model=autoencoder")

    def converted(self, where: str, targets: Any) -> Tensor:
        return as_tensor(where, targets)

    def adopted(self, data: Data) -> Data:
        if isinstance(data.input_shape, dict):
            raise ConfigError(
                f"dataset.as_task={self.name}: dataset {data.name} has several inputs",
                "use a dataset with one",
            )
        size = math.prod(data.input_shape)
        note = "; ".join(filter(None, [data.note, "the input is the target"]))
        return replace(data, task=self.name, classes=(), output_size=size, note=note)

    def loader(self, loader: Loader) -> Loader:
        # Copies: a model may change its inputs in place.
        return WithTargets(loader, lambda batch: batch.inputs.clone())

    def kept(self, outputs: Tensor) -> Tensor:
        """Nothing: there are no tables."""
        return outputs.flatten(1)[:, :0]
