"""The loss of a batch whose samples are divided among several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainctl.config.settings import Config
from trainctl.data.sampler import Share
from trainctl.registry.protocols import Criterion
from trainctl.training.agreed_control import AgreedControl
from trainctl.training.steps.choose import Step


class _MeanOverRanks(torch.autograd.Function):
    """The mean of a loss over the whole batch. Its gradient is this process's part of it, times the number of
    processes, since DistributedDataParallel and FSDP divide by that.

    Where the weight of the whole batch is known, the gradient does not wait for the sum: the loss has its
    value at the end of the backward pass.
    """

    @staticmethod
    def forward(context: Any, loss: Tensor, own: Any, whole: int | None, whole_batch: WholeBatch) -> Tensor:
        weight = torch.as_tensor(own, dtype=torch.float64, device=loss.device)
        asked = weight.new_full((), whole_batch.control.asked)
        parts = torch.stack((loss.detach().double() * weight, weight, asked))
        value, context.whole_batch = torch.empty_like(loss), whole_batch
        whole_batch.summed = whole_batch.group.sum_meanwhile(parts), parts, value.detach()
        if whole is None:
            whole_batch.finish()
        context.factor = whole_batch.group.size * (weight / (parts[1] if whole is None else whole)).to(
            loss.dtype
        )
        return value

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        torch.autograd.Variable._execution_engine.queue_callback(context.whole_batch.finish)
        return gradients[0] * context.factor, None, None, None


class WholeBatch:
    """The model and the criterion as the step calls them on slices of a batch.

    Called as a criterion, it gives the loss of the whole batch, the same in every process. Slices count by
    their samples, or by the weights of their classes where the criterion weighs those.

    With the losses travels what hooks have asked for, so that a step waits for the other processes once.

    Args:
        model: leaves the mean of all gradients after each backward pass, or this process's part of it.
        share: of the training batches, which says whether the newest slice counts.
        control: has what hooks ask for, and is told what those of all processes ask for.
    """

    def __init__(
        self, model: Any, criterion: Criterion, share: Share, control: AgreedControl, config: Config
    ) -> None:
        self.model, self.criterion, self.share, self.control = model, criterion, share, control
        self.group = control.group
        self.summed: tuple[Any, Tensor, Tensor] | None = None
        self.name, self.batch_size = config.strategy.name, config.train.batch_size
        self._weigh: Callable[[Tensor], Any] = getattr(criterion, "batch_weight", len)
        # Another loop may look at the loss before the backward pass.
        self._counts = self._weigh is len and config.train.accumulate == 1 and config.loop.name == "optimizer"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Any:
        loss = self.criterion(outputs, targets)
        whole = self.share.count if self._counts else None
        return _MeanOverRanks.apply(loss, self._weight(targets), whole, self)

    def finish(self) -> None:
        """Wait for the sum of the losses, and give the loss its value."""
        if self.summed is not None:
            (work, parts, value), self.summed = self.summed, None
            work.wait()
            value.copy_(parts[0] / parts[1])
            self.control.asked_by_any |= parts[2] > 0

    def batch_weight(self, targets: Tensor) -> Tensor:
        """The weight of these slices in all processes together, a scalar."""
        own = torch.as_tensor(self._weight(targets), dtype=torch.float64, device=targets.device)
        return self.group.sum(own.clone())

    def cut(self, window: Tensor) -> Sequence[Tensor]:
        """This process's part of a window in pieces, one a batch: as many in every process, none empty."""
        count = self.share.count
        return torch.tensor_split(window, max(1, min(-(-count // self.batch_size), count // self.group.size)))

    def step(self, step: Step) -> Step:
        """``step`` with this model and criterion in place of the run's own."""

        def take(_: Any, __: Any, optimizer: Any, inputs: Tensor, targets: Tensor, precision: Any) -> Tensor:
            loss: Tensor = step.take(self.model, self, optimizer, inputs, targets, precision)
            return loss

        return Step(take, f"{step.name}, {self.name} on {self.group.size} devices")

    def _weight(self, targets: Tensor) -> Any:
        return 0.0 if self.share.idle else self._weigh(targets)
