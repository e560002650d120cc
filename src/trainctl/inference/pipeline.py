"""A trained run as one module, from raw samples to predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainctl.components.tasks._base import Task
from trainctl.data.readout import Readout


class Pipeline(nn.Module):
    """Preprocessing, model and the step from outputs to predictions in the unit of the data, as one module.

    Shape: raw samples (N, *raw) → probabilities (N, classes), or values (N, outputs).
    """

    def __init__(self, transform: nn.Module, model: nn.Module, readout: Readout, task: Task) -> None:
        super().__init__()
        self.transform, self.model, self.readout, self.task = transform, model, readout, task

    def forward(self, inputs: Any) -> Tensor:
        return self.task.predict(self.readout(self.model(self.transform(inputs)).to(torch.float32)))
