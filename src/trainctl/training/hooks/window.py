"""Steps that are judged together, some time after they were taken."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainctl.training.hooks.buffers import Buffers
from trainctl.training.loop import Run

LENGTH = 50
Gradients = tuple[list[Tensor], Tensor]
"""Parameters, and the largest magnitude in the gradient of each, shape (parameters,)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What was before a step that is judged later, and what it gave.

    Attributes:
        epoch, position, samples, lr: of the run's state.
        random_state: torch's on the device.
        buffers: copies of the model's.
        loss: a scalar on the device.
        gradients: of the step; None where they are not checked.
    """

    epoch: int
    position: int
    samples: int
    lr: float
    random_state: Tensor
    buffers: list[Tensor]
    loss: Tensor
    gradients: Gradients | None


class Window:
    """Up to 50 steps that an optimizer takes under a flag on the device, nothing of which is waited for.

    While the flag is 1 a step changes neither parameters nor the optimizer's state: it is the ``found_inf``
    that torch.amp.GradScaler gives to fused optimizers.
    """

    def __init__(self, run: Run, buffers: Buffers, device: torch.device) -> None:
        self._run, self._buffers = run, buffers
        self._bad = torch.zeros((), device=device, dtype=torch.float32)
        self._recent: list[Step] = []
        self._entered: tuple[int, int, int, float] | None = None
        self.gradients: Gradients | None = None
        run.optimizer.found_inf, run.optimizer.grad_scale = self._bad, None  # type: ignore[attr-defined]

    @staticmethod
    def is_possible(optimizer: Any) -> bool:
        """Whether the optimizer heeds the flag, as torch.amp.GradScaler asks it."""
        fused = all(group.get("fused") for group in optimizer.param_groups)
        return fused and bool(getattr(optimizer, "_step_supports_amp_scaling", False))

    def close(self) -> None:
        """Take the flag from the optimizer."""
        del self._run.optimizer.found_inf, self._run.optimizer.grad_scale  # type: ignore[attr-defined]

    def flag(self, value: Tensor) -> None:
        """Set the flag where ``value``, a scalar, is not finite."""
        # The difference is 0, or NaN, which counts as true.
        self._bad.logical_or_(value - value)

    def enter(self) -> None:
        """Before a step."""
        run, state = self._run, self._run.state
        self._entered = state.epoch, state.position, state.epoch_samples, state.lr
        self.gradients = None
        if not self._recent:
            settings = [
                {key: value for key, value in group.items() if key != "params"}
                for group in run.optimizer.param_groups
            ]
            scheduler = None if run.scheduler is None else copy.deepcopy(run.scheduler.state_dict())
            self._opened = settings, scheduler

    def leave(self, before: tuple[Tensor, list[Tensor]], loss: Tensor) -> bool:
        """After a step that was entered, with what was kept before it. Whether it is time to judge."""
        if self._entered is not None:
            self._recent.append(Step(*self._entered, *before, loss, self.gradients))
            self._entered = None
        return len(self._recent) == LENGTH

    def first_bad(self, *, by_loss: bool) -> Step | None:
        """The first bad one of the steps since the last call, with the run put back to before it.

        The parameters and the optimizer's state are those already: the flag has kept the steps from them.
        ``by_loss`` says whether a loss makes a step bad, or gradients alone.
        """
        recent, self._recent = self._recent, []
        if not recent or not bool(self._bad):
            return None
        losses = torch.stack([each.loss for each in recent]).isfinite().tolist()
        bad = [
            number
            for number, (each, fine) in enumerate(zip(recent, losses, strict=True))
            if (by_loss and not fine)
            or (each.gradients is not None and not bool(each.gradients[1].isfinite().all()))
        ]
        if not bad:
            return None  # the bad step was broken off by something else, and does not count
        number = bad[0]
        self._put_back(recent[number], number, len(recent))
        return recent[number]

    def _put_back(self, before: Step, number: int, taken: int) -> None:
        """Make the run what it was before ``number``, from 0, of the ``taken`` steps."""
        run, state = self._run, self._run.state
        state.step -= taken - number
        state.epoch, state.position = before.epoch, before.position
        state.epoch_samples, state.lr = before.samples, before.lr
        self._buffers.put_back(before.buffers)
        settings, scheduler = self._opened
        for group, kept in zip(run.optimizer.param_groups, settings, strict=True):
            group.update(kept)
        if run.scheduler is not None and scheduler is not None:
            run.scheduler.load_state_dict(scheduler)
            for _ in range(number):
                run.scheduler.step()
