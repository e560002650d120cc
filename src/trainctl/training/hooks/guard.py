"""Stops a run, or leaves a step out, when its loss or its gradients are not finite."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainctl.errors import CheckpointError, NotFiniteError
from trainctl.training.hooks.base import Hook
from trainctl.training.hooks.buffers import Buffers
from trainctl.training.hooks.window import Window
from trainctl.training.loop import Run

log = logging.getLogger("trainctl")

Keep = Callable[[Run, Tensor, Tensor, Tensor, str], str]
"""Keeps a bad step to be run again: the run before it, its inputs, targets, torch's random state, and why."""


class _NotTakenError(Exception):
    """Ends a step before the optimizer's. ``loss`` is what the log has of it, a scalar on the device."""

    def __init__(self, what: str, loss: Tensor, *, in_gradient: bool = False) -> None:
        super().__init__(what)
        self.loss, self.in_gradient = loss, in_gradient


class Guard(Hook):
    """Lets no step be taken whose loss, or gradients, are NaN or infinite.

    Such a step is kept as a capsule and raises NotFiniteError (exit 6); the first ``skip`` of them are left
    out instead, each with a line in the log. In every case the parameters are those before the step, and so
    are the model's buffers, which the forward pass changes where there is batch normalisation: no running
    statistic stays NaN, and a capsule is the run before the step. A buffer that the first step leaves as it
    is counts as a constant. What a model keeps in ordinary attributes is not put back.

    A loss on the CPU is read as soon as it is computed. On a GPU, reading would wait for it at every step.
    There a flag on the device, the ``found_inf`` of torch's gradient scalers, keeps a fused optimizer from
    taking the bad step and all that come after it, and is read every 50 steps, before each checkpoint and at
    the end of each epoch; then the run is put back to before the bad step. The loss is waited for at every
    step where the optimizer does not heed the flag, where the loop updates the parameters itself, and with
    ``skip``, which must know at once; and at the first step, which shows who updates the parameters.

    Args:
        loss: check the loss.
        gradients: check the gradients, before they are clipped.
        skip: how many bad steps to leave out.
        deferred: whether to use the flag where that is possible; None uses it on CUDA devices.
    """

    def __init__(
        self, *, loss: bool = True, gradients: bool = False, skip: int = 0, deferred: bool | None = None
    ) -> None:
        self.loss, self.gradients, self.skip, self.deferred = loss, gradients, skip, deferred
        self.keep: Keep | None = None
        self._detaching: list[Callable[[], Any]] = []
        self._window: Window | None = None

    def start(self, run: Run) -> None:
        self._detach()
        device = next(run.model.parameters()).device
        self._run, self._device = run, device
        self._random_state, self._buffers = _random_state_of(device), Buffers(run.model)
        self._inside = self._ours = self._settled = False
        self._losses: list[Tensor] = []
        self._mark()

        on_detach = self._detaching.append
        on_detach(run.criterion.register_forward_hook(self._check_loss).remove)
        if self.gradients:
            on_detach(run.optimizer.register_step_pre_hook(self._check_gradients).remove)
        wanted = device.type == "cuda" if self.deferred is None else self.deferred
        if wanted and not self.skip and Window.is_possible(run.optimizer):
            on_detach(run.optimizer.register_step_pre_hook(self._defer).remove)
        plain, guarded = run.step, self._guarded(run.step)
        run.step = guarded
        on_detach(lambda: setattr(run, "step", plain) if run.step is guarded else None)

    def end(self, run: Run) -> None:
        self._look()
        self._detach()

    def _detach(self) -> None:
        while self._detaching:
            self._detaching.pop()()
        window, self._window = self._window, None
        if window is not None:
            window.close()

    # ---------------------------------------------------------------- the step

    def _mark(self) -> None:
        """Keep what the coming step changes and nothing else brings back."""
        self._before = self._random_state(), self._buffers.copied()

    def _guarded(self, step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same step, which is not taken where a check says so."""

        def guarded_step(
            model: Any, criterion: Any, optimizer: Any, inputs: Tensor, targets: Tensor, *rest: Any
        ) -> Tensor:
            self._mark()
            self._losses.clear()
            self._inside = self._ours = True
            if self._window is not None:
                self._window.enter()
            try:
                loss = step(model, criterion, optimizer, inputs, targets, *rest)
            except _NotTakenError as bad:
                self._refuse(bad, inputs, targets)
                return bad.loss
            finally:
                self._inside = False
            if not self._settled:
                self._settled = True
                self._buffers.forget_constants(self._before[1])
            return loss

        return guarded_step

    def _check_loss(self, criterion: Any, inputs: Any, loss: Tensor) -> None:
        if not self._run.model.training:
            return
        loss = loss.detach()
        if self.gradients:
            self._losses.append(loss)
        if self._window is not None:
            if self.loss:
                self._window.flag(loss)
        elif self.loss and not math.isfinite(value := loss.item()):
            self._stop(_NotTakenError(f"the loss is {value}", loss))

    def _check_gradients(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        parameters = _with_gradient(optimizer)
        gradients = [_values(item.grad) for item in parameters]
        if not gradients:
            return
        if self._window is not None:
            # The largest magnitude, not the norm: that of finite gradients may overflow.
            largest = torch.stack(torch._foreach_norm(gradients, math.inf))
            self._window.gradients = parameters, largest
            self._window.flag((largest - largest).sum())
            return
        # A finite sum has finite terms only. The reverse does not hold, and looking at each takes longer.
        sums = [gradient.sum() for gradient in gradients]
        on_cpu = self._device.type == "cpu"
        total = sum(each.item() for each in sums) if on_cpu else torch.stack(sums).sum().item()
        if total - total != 0:
            bad = [not bool(torch.isfinite(gradient).all()) for gradient in gradients]
            if any(bad):
                loss = torch.stack(self._losses).mean()
                what = self._said(
                    [item for item, is_bad in zip(parameters, bad, strict=True) if is_bad], loss
                )
                self._stop(_NotTakenError(what, loss, in_gradient=True))

    def _said(self, parameters: Sequence[Tensor], loss: Tensor) -> str:
        ours = {id(item) for item in parameters}
        names = [name for name, item in self._run.model.named_parameters() if id(item) in ours]
        more = f" and of {len(names) - 1} more" if len(names) > 1 else ""
        return f"the gradient of {names[0]}{more} is not finite (loss {loss.item()})"

    def _stop(self, bad: _NotTakenError) -> None:
        if self._inside:
            raise bad
        # Another loop's step, which cannot be left out. The cursor gives its batch again.
        state = self._run.state
        inputs, targets = next(iter(self._run.train.batches(state.epoch, state.position)))
        self._buffers.put_back(self._before[1])
        raise self._error(bad, inputs, targets, self._before[0])

    def _refuse(self, bad: _NotTakenError, inputs: Tensor, targets: Tensor) -> None:
        """Leave the step out, or keep it and raise."""
        state, (random_state, buffers) = self._run.state, self._before
        self._buffers.put_back(buffers)
        if state.skipped >= self.skip:
            raise self._error(bad, inputs, targets, random_state)
        state.skipped += 1
        log.warning("step %d left out: %s (%d of %d)", state.step + 1, bad, state.skipped, self.skip)
        # To a scheduler this is a step like others; it would warn of a first one without the optimizer's.
        self._run.optimizer._opt_called = True  # type: ignore[attr-defined]

    def _error(
        self, bad: _NotTakenError, inputs: Tensor, targets: Tensor, random_state: Tensor
    ) -> NotFiniteError:
        run = self._run
        step, lr = run.state.step + 1, run.optimizer.param_groups[0]["lr"]
        if bad.in_gradient:
            remedy = "a derivative is infinite, such as that of sqrt at 0, or overflows"
        elif step == 1:
            remedy = "no step was taken yet: inputs, targets or the model's first outputs are not finite"
        else:
            remedy = f"try a smaller one, e.g. lr={lr / 10:g}, or train.clip_norm=1.0"
        if self.keep is not None:
            try:
                capsule = self.keep(run, inputs, targets, random_state, str(bad))
                remedy += f"; see where it begins: trainctl replay {shlex.quote(capsule)}"
            except (OSError, CheckpointError) as error:
                # What is wrong with the run comes before what is wrong with the disk.
                remedy += f"; it could not be kept for trainctl replay: {error}"
        return NotFiniteError(f"{bad} at step {step} with learning rate {lr:g}", remedy)

    def refusal(self, run: Run, loss: Tensor, random_state: Tensor) -> NotFiniteError:
        """The error of the next step of ``run``, whose loss another engine found not to be finite.

        The run is as it was before that step, and ``random_state`` was torch's on its device.
        """
        self._run = run
        inputs, targets = next(iter(run.train.batches(run.state.epoch, run.state.position)))
        return self._error(_NotTakenError(f"the loss is {loss.item()}", loss), inputs, targets, random_state)

    # ---------------------------------------------------------------- the flag

    def _defer(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """The loop leaves the update to the optimizer: from the next step on the flag is enough."""
        if self._inside and self._window is None:
            self._window = Window(self._run, self._buffers, self._device)

    def step(self, run: Run, loss: Tensor) -> None:
        if not self._ours:
            self._mark()
        if self._window is not None and self._window.leave(self._before, loss):
            self._look()

    def poll(self, run: Run) -> None:
        self._look()

    def evaluated(self, run: Run, values: Any) -> None:
        self._look()

    def state_dict(self) -> dict[str, Any]:
        self._look()
        return {}

    def _look(self) -> None:
        """Read the flag; raise for the first bad step, with the run put back to before it."""
        first = None if self._window is None else self._window.first_bad(by_loss=self.loss)
        if first is None:
            return
        if first.gradients is None or (self.loss and not math.isfinite(first.loss.item())):
            bad = _NotTakenError(f"the loss is {first.loss.item()}", first.loss)
        else:
            fine = first.gradients[1].isfinite().tolist()
            found = [item for item, is_fine in zip(first.gradients[0], fine, strict=True) if not is_fine]
            bad = _NotTakenError(self._said(found, first.loss), first.loss, in_gradient=True)
        inputs, targets = next(iter(self._run.train.batches(first.epoch, first.position)))
        raise self._error(bad, inputs, targets, first.random_state)


def _with_gradient(optimizer: Any) -> list[Tensor]:
    parameters = (item for group in optimizer.param_groups for item in group["params"])
    return [item for item in parameters if item.grad is not None and item.grad.numel()]


def _values(gradient: Any) -> Tensor:
    """The stored values of a gradient, all of them or those that are not zero."""
    values: Tensor = gradient.coalesce().values() if gradient.is_sparse else gradient
    return values


def _random_state_of(device: torch.device) -> Callable[[], Tensor]:
    """Reads the random state that the model draws from on ``device``."""
    if device.type == "cuda":
        return lambda: torch.cuda.get_rng_state(device)
    if device.type == "mps":
        return torch.mps.get_rng_state
    return torch.get_rng_state
