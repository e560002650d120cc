"""Steps that are judged together, some time after they were taken."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainctl.registry.protocols import Optimizer
from trainctl.training.buffers import Buffers
from trainctl.training.run import Run

LENGTH = 50
"""Steps of a window; up to ``_MOST`` where they take less than ``_SECONDS`` together."""
_MOST, _SECONDS = 500, 0.05
Gradients = tuple[list[Tensor], Tensor]
"""Parameters, and the largest magnitude in the gradient of each, shape (parameters,)."""


@dataclass(frozen=True, slots=True)
class Before:
    """The values before a step that nothing else restores.

    Attributes:
        place: epoch, position, epoch_samples and lr of the run's state.
        random_state: torch's on the device.
        buffers: copies of the model's.
    """

    place: tuple[int, int, int, float]
    random_state: Tensor
    buffers: list[Tensor]


class Window:
    """Up to 50 steps, or more where they are short, that an optimizer takes under a flag on the device. None
    of them is waited for.

    While the flag is 1 a step changes neither parameters nor the optimizer's state: it is the ``found_inf``
    that torch.amp.GradScaler gives to fused optimizers.
    """

    def __init__(self, optimizer: Optimizer, buffers: Buffers, device: torch.device) -> None:
        self._optimizer, self._buffers = optimizer, buffers
        self._bad = torch.zeros((), device=device, dtype=torch.float32)
        self._recent: list[tuple[Before, Tensor, Gradients | None]] = []
        self.gradients: Gradients | None = None
        optimizer.found_inf, optimizer.grad_scale = self._bad, None  # type: ignore[attr-defined]

    @staticmethod
    def is_possible(optimizer: Any) -> bool:
        """Whether the optimizer heeds the flag: what torch.amp.GradScaler asks, too."""
        fused = all(group.get("fused") for group in optimizer.param_groups)
        return fused and bool(getattr(optimizer, "_step_supports_amp_scaling", False))

    def close(self) -> None:
        """Take the flag from the optimizer."""
        vars(self._optimizer).pop("found_inf", None)
        vars(self._optimizer).pop("grad_scale", None)

    def flag(self, value: Tensor) -> None:
        """Set the flag where ``value``, a scalar, is not finite."""
        # The difference is 0, or NaN, which counts as true.
        self._bad.logical_or_(value - value)

    def enter(self, run: Run) -> None:
        """Before a step."""
        self.gradients = None
        if not self._recent:
            self._began = time.monotonic()
            settings = [
                {key: value for key, value in group.items() if key != "params"}
                for group in run.optimizer.param_groups
            ]
            scheduler = None if run.scheduler is None else copy.deepcopy(run.scheduler.state_dict())
            self._opened = settings, scheduler

    def leave(self, before: Before, loss: Tensor) -> bool:
        """After a step. Whether it is time to judge."""
        self._recent.append((before, loss, self.gradients))
        count = len(self._recent)
        if count < LENGTH:
            return False
        # To judge is to wait for the device, which then waits for the next step; copies take memory.
        is_short = time.monotonic() - self._began < _SECONDS and not before.buffers
        return not is_short or count >= _MOST

    def first_bad(self, run: Run, *, by_loss: bool) -> tuple[Before, Tensor, Gradients | None] | None:
        """The first bad step since the last call, its loss and gradients, with ``run`` put back to before it.

        The parameters and the optimizer's state need not be: the flag has kept the steps from them.
        ``by_loss`` says whether a loss makes a step bad, or gradients alone.
        """
        recent, self._recent = self._recent, []
        if not recent or not bool(self._bad):
            return None
        losses = torch.stack([loss for _, loss, _ in recent]).isfinite().tolist()
        for number, ((before, _, gradients), fine) in enumerate(zip(recent, losses, strict=True)):
            if (by_loss and not fine) or (gradients is not None and not bool(gradients[1].isfinite().all())):
                self._put_back(run, before, number, len(recent))
                return recent[number]
        return None  # the bad step was broken off by something else, and does not count

    def _put_back(self, run: Run, before: Before, number: int, taken: int) -> None:
        """Make the run what it was before ``number``, from 0, of the ``taken`` steps."""
        state = run.state
        state.step -= taken - number
        state.epoch, state.position, state.epoch_samples, state.lr = before.place
        self._buffers.put_back(before.buffers)
        settings, scheduler = self._opened
        for group, kept in zip(run.optimizer.param_groups, settings, strict=True):
            group.update(kept)
        if run.scheduler is not None and scheduler is not None:
            run.scheduler.load_state_dict(scheduler)
            for _ in range(number):
                run.scheduler.step()
