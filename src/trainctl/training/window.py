"""Steps that are judged together, some time after they were taken."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainctl.registry.protocols import Optimizer
from trainctl.training.buffers import Buffers
from trainctl.training.pending_losses import Transfer
from trainctl.training.run import Run

LENGTH = 50
"""Steps between two readings of the flag; up to ``_MOST`` where they take less than ``_SECONDS`` together."""
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


@dataclass
class _Part:
    """Steps that one reading of the flag judges.

    Attributes:
        settings: of the optimizer's groups before the first of them; the scheduler's state likewise.
        flag: sent after the last of them.
    """

    settings: list[dict[str, Any]]
    scheduler: dict[str, Any] | None
    began: float
    steps: list[tuple[Before, Tensor, Gradients | None]] = field(default_factory=list)
    flag: Transfer | None = None


class Window:
    """Steps that an optimizer takes under a flag on the device. None of them is waited for: the flag is sent
    after each 50 steps, or more where they are short, and read when the next ones have been launched.

    While the flag is 1 a step changes neither parameters nor the optimizer's state: it is the ``found_inf``
    that torch.amp.GradScaler gives to fused optimizers.
    """

    def __init__(self, optimizer: Optimizer, buffers: Buffers, device: torch.device) -> None:
        self._optimizer, self._buffers = optimizer, buffers
        self._bad = torch.zeros((), device=device, dtype=torch.float32)
        self._parts: list[_Part] = []
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
        if not self._parts or self._parts[-1].flag is not None:
            settings = [
                {key: value for key, value in group.items() if key != "params"}
                for group in run.optimizer.param_groups
            ]
            scheduler = None if run.scheduler is None else copy.deepcopy(run.scheduler.state_dict())
            self._parts.append(_Part(settings, scheduler, time.monotonic()))

    def leave(self, before: Before, loss: Tensor) -> bool:
        """After a step. Whether one is known to be bad."""
        part = self._parts[-1]
        part.steps.append((before, loss, self.gradients))
        count = len(part.steps)
        if count < LENGTH:
            return False
        # Whoever launches short steps is far ahead of the device; and copies take memory.
        is_short = time.monotonic() - part.began < _SECONDS and not before.buffers
        if is_short and count < _MOST:
            return False
        part.flag = Transfer(self._bad)
        if len(self._parts) == 1:
            return False
        first = self._parts[0].flag
        assert first is not None
        if bool(first.read()):
            return True
        del self._parts[0]
        return False

    def first_bad(self, run: Run, *, by_loss: bool) -> tuple[Before, Tensor, Gradients | None] | None:
        """The first bad step since the last call, its loss and gradients, with ``run`` put back to before it.

        The parameters and the optimizer's state need not be: the flag has kept the steps from them.
        ``by_loss`` says whether a loss makes a step bad, or gradients alone.
        """
        parts, self._parts = self._parts, []
        recent = [step for part in parts for step in part.steps]
        if not recent or not bool(self._bad):
            return None
        losses = torch.stack([loss for _, loss, _ in recent]).isfinite().tolist()
        for number, ((before, _, gradients), fine) in enumerate(zip(recent, losses, strict=True)):
            if (by_loss and not fine) or (gradients is not None and not bool(gradients[1].isfinite().all())):
                self._put_back(run, before, number, parts)
                return recent[number]
        return None  # the bad step was broken off by something else, and does not count

    def _put_back(self, run: Run, before: Before, number: int, parts: list[_Part]) -> None:
        """Make the run what it was before ``number``, from 0, of the steps of ``parts``."""
        state = run.state
        state.step -= sum(len(part.steps) for part in parts) - number
        state.epoch, state.position, state.epoch_samples, state.lr = before.place
        self._buffers.put_back(before.buffers)
        for part in parts:
            if number < len(part.steps):
                break
            number -= len(part.steps)
        for group, kept in zip(run.optimizer.param_groups, part.settings, strict=True):
            group.update(kept)
        if run.scheduler is not None and part.scheduler is not None:
            run.scheduler.load_state_dict(part.scheduler)
            for _ in range(number):
                run.scheduler.step()
