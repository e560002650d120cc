"""The standard loop on several devices, with the gradients averaged by hand."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch.distributed as dist
from torch import Tensor

from trainctl.config.settings import Config
from trainctl.errors import ConfigError
from trainctl.registry import LOOPS
from trainctl.registry.protocols import Criterion, Model, Optimizer


@LOOPS.register("data_parallel")
class DataParallel:
    """Every process takes this step on its slice of the batch, and all of them change the weights alike.

    What DistributedDataParallel does while the gradients are computed happens here afterwards, in plain
    sight.
    Li et al., PyTorch Distributed: experiences on accelerating data parallel training (VLDB 2020), section 3.
    """

    several_devices = True

    def __init__(self, config: Config) -> None:
        if config.train.accumulate > 1:
            raise ConfigError(
                f"train.accumulate={config.train.accumulate} requires loop=optimizer: loop=data_parallel"
                " averages the gradients after each batch",
                "use train.accumulate=1, or loop=optimizer",
            )

    @staticmethod
    def step(
        model: Model,
        criterion: Criterion,
        optimizer: Optimizer,
        inputs: Tensor,
        targets: Tensor,
        precision: AbstractContextManager[Any],
    ) -> Tensor:
        """One step on inputs (N, …) and targets (N, …); returns the loss of the whole batch, a scalar."""
        with precision:
            loss = criterion(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        if dist.is_initialized():
            for parameter in model.parameters():
                if parameter.grad is not None:  # a frozen one has none
                    parameter.grad /= dist.get_world_size()
                    dist.all_reduce(parameter.grad)  # the sum over all processes, in each of them
        optimizer.step()
        return loss.detach()  # type: ignore[no-any-return]

    def refusal(self, model: Any, criterion: Any, optimizer: Any) -> str | None:
        """Why this rung cannot train these parts, or None."""
        return None
