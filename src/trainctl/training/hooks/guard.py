"""Stops a run, or leaves a step out, when its loss or its gradients are not finite."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainctl.errors import CheckpointError, NotFiniteError
from trainctl.registry.protocols import Batch
from trainctl.training.buffers import Buffers
from trainctl.training.run import Hook, Run
from trainctl.training.window import Before, Window

log = logging.getLogger("trainctl")

Keep = Callable[[Run, Tensor, Tensor, Tensor, str], str]
"""Stores a capsule of a bad step: the run before it, inputs, targets, torch's random state, the reason."""


class StepRefusedError(Exception):
    """Ends the step of a rung before its update. ``loss`` is a scalar on the device."""

    def __init__(self, loss: Tensor) -> None:
        super().__init__("the step is left out")
        self.loss = loss


class Guard(Hook):
    """Lets no step be taken whose loss, or gradients, are NaN or infinite.

    The steps of ``steps/`` ask :meth:`accepts_loss` and :meth:`accepts_gradients` between the backward pass
    and the optimizer's step. A refused step is kept as a capsule and raises NotFiniteError (exit 6); the
    first ``max_skipped_steps`` are left out instead, with a line in the log. Parameters and buffers are then
    as before the step; a buffer that the first step did not change counts as a constant. What a model keeps
    in ordinary attributes is not restored.

    A loss on the CPU is read at once. On a GPU that would wait for the device at every step: there a flag on
    the device, the ``found_inf`` of torch's gradient scalers, keeps a fused optimizer from the bad step and
    all later ones. It is sent every 50 steps and read 50 later, and waited for before each checkpoint and at
    the end of each epoch; then the run is put back to before the bad step. Without a fused optimizer, with a
    rung that updates parameters itself, or with ``max_skipped_steps``, the loss is read at every step.

    Args:
        loss: check the loss.
        gradients: check the gradients, before they are clipped.
        max_skipped_steps: how many bad steps to leave out.
        deferred: use the flag where that is possible; None uses it on CUDA devices.
    """

    name = "guard"

    def __init__(
        self,
        loss: bool = True,
        gradients: bool = False,
        max_skipped_steps: int = 0,
        deferred: bool | None = None,
    ) -> None:
        self.loss, self.gradients, self.max_skipped_steps = loss, gradients, max_skipped_steps
        self.deferred = deferred
        self.keep: Keep | None = None
        self._window: Window | None = None
        self._before: Before | None = None

    @property
    def watches(self) -> str:
        """``loss``, ``gradients`` or ``loss and gradients``."""
        return " and ".join(name for name, on in (("loss", self.loss), ("gradients", self.gradients)) if on)

    # ---------------------------------------------------------------- asked by the step

    def accepts(self, loss: Tensor) -> bool:
        """Whether the optimizer may step: both of the following."""
        return self.accepts_loss(loss) and self.accepts_gradients(loss)

    def accepts_loss(self, loss: Tensor) -> bool:
        """Whether the step may go on. Raises NotFiniteError where no more steps may be left out."""
        if not self.loss:
            return True
        if self._window is not None:
            self._window.flag(loss.detach())
            return True
        value = loss.item()
        return math.isfinite(value) or self._refuse(f"the loss is {value}", in_gradient=False)

    def accepts_gradients(self, loss: Tensor) -> bool:
        """Whether the optimizer may step. Raises as :meth:`accepts_loss` does."""
        if not self.gradients:
            return True
        parameters = _with_gradient(self._run.optimizer)
        gradients = [
            item.grad.coalesce().values() if item.grad.is_sparse else item.grad for item in parameters
        ]
        if not gradients:
            return True
        if self._window is not None:
            # The largest magnitude, not the norm: that of finite gradients may overflow.
            largest = torch.stack(torch._foreach_norm(gradients, math.inf))
            self._window.gradients = parameters, largest
            self._window.flag((largest - largest).sum())
            return True
        # A finite sum has finite terms only. The reverse does not hold, and looking at each takes longer.
        sums = [gradient.sum() for gradient in gradients]
        on_cpu = self._device.type == "cpu"
        total = sum(each.item() for each in sums) if on_cpu else torch.stack(sums).sum().item()
        if total - total == 0:
            return True
        bad = [item for item, each in zip(parameters, gradients, strict=True) if not each.isfinite().all()]
        return not bad or self._refuse(self._bad_gradient(bad, loss), in_gradient=True)

    # ---------------------------------------------------------------- events

    def start(self, run: Run) -> None:
        self._close()
        self._run, self._device = run, next(run.model.parameters()).device
        self._random_state, self._buffers = _random_state_of(self._device), Buffers(run.model)
        self._refused = self._settled = False

    def batch(self, run: Run, batch: Batch) -> None:
        state = run.state
        self._batch, self._refused = batch, False
        self._before = Before(
            (state.epoch, state.position, state.epoch_samples, state.lr),
            self._random_state(),
            self._buffers.copied(),
        )
        if self._window is not None:
            self._window.enter(run)

    def step(self, run: Run, loss: Tensor) -> None:
        if self._before is None:
            return
        if self._window is not None and self._window.leave(self._before, loss):
            self.settle(run)
        if not self._settled and not self._refused:
            self._settled = True
            self._buffers.forget_constants(self._before.buffers)
            # Not before the first step: a fused optimizer makes its state in it, flag or not.
            wanted = self._device.type == "cuda" if self.deferred is None else self.deferred
            if wanted and not self.max_skipped_steps and Window.is_possible(run.optimizer):
                self._window = Window(run.optimizer, self._buffers, self._device)

    def end(self, run: Run) -> None:
        self.settle(run)
        self._close()

    def _close(self) -> None:
        window, self._window = self._window, None
        if window is not None:
            window.close()

    def settle(self, run: Run) -> None:
        """Read the flag; raise for the first bad step, with the run put back to before it."""
        first = None if self._window is None else self._window.first_bad(run, by_loss=self.loss)
        if first is None:
            return
        before, loss, gradients = first
        # The cursor gives the batch again.
        batch = next(iter(run.train_loader.batches(run.state.cursor)))
        if gradients is None or (self.loss and not math.isfinite(loss.item())):
            raise self.error(run, f"the loss is {loss.item()}", batch, before.random_state)
        fine = gradients[1].isfinite().tolist()
        bad = [item for item, is_fine in zip(gradients[0], fine, strict=True) if not is_fine]
        what = self._bad_gradient(bad, loss)
        raise self.error(run, what, batch, before.random_state, in_gradient=True)

    def poll(self, run: Run) -> None:
        self.settle(run)

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        self.settle(run)

    # ---------------------------------------------------------------- refusal

    def _refuse(self, what: str, *, in_gradient: bool) -> bool:
        """Leave the step out, and return False; raise where no more may be left out."""
        before, state = self._before, self._run.state
        assert before is not None
        self._buffers.put_back(before.buffers)
        if state.skipped >= self.max_skipped_steps:
            raise self.error(self._run, what, self._batch, before.random_state, in_gradient=in_gradient)
        self._refused = True
        state.skipped += 1
        log.warning(
            "step %d left out: %s (%d of %d)", state.step + 1, what, state.skipped, self.max_skipped_steps
        )
        # A scheduler counts this step like others, and would warn of a first one without the optimizer's.
        self._run.optimizer._opt_called = True  # type: ignore[attr-defined]
        return False

    def _bad_gradient(self, parameters: Sequence[Tensor], loss: Tensor) -> str:
        bad = {id(item) for item in parameters}
        names = [name for name, item in self._run.model.named_parameters() if id(item) in bad]
        more = f" and of {len(names) - 1} more" if len(names) > 1 else ""
        return f"the gradient of {names[0]}{more} is not finite (loss {loss.item()})"

    def error(
        self, run: Run, what: str, batch: Batch, random_state: Tensor, *, in_gradient: bool = False
    ) -> NotFiniteError:
        """The error for the step after ``run``, which is kept as a capsule.

        Args:
            run: in the state before the step.
            what: the value that is not finite.
            batch: of the step.
            random_state: torch's on the device before the step.
            in_gradient: a gradient is not finite, and not the loss.
        """
        step, lr = run.state.step + 1, run.optimizer.param_groups[0]["lr"]
        if in_gradient:
            remedy = "a derivative is infinite, such as that of sqrt at 0, or overflows"
        elif step == 1:
            remedy = "no step was taken yet: inputs, targets or the model's first outputs are not finite"
        else:
            remedy = f"try a smaller one, e.g. lr={lr / 10:g}, or train.clip_norm=1.0"
        if self.keep is not None:
            try:
                capsule = self.keep(run, batch.inputs, batch.targets, random_state, what)
                remedy += f"; see where it begins: trainctl replay {shlex.quote(capsule)}"
            except (OSError, CheckpointError) as error:
                # What is wrong with the run matters more than what is wrong with the disk.
                remedy += f"; no capsule could be written: {error}"
        return NotFiniteError(f"{what} at step {step} with learning rate {lr:g}", remedy)


def _with_gradient(optimizer: Any) -> list[Any]:
    parameters = (item for group in optimizer.param_groups for item in group["params"])
    return [item for item in parameters if item.grad is not None and item.grad.numel()]


def _random_state_of(device: torch.device) -> Callable[[], Tensor]:
    """Reads the random state that the model draws from on ``device``."""
    if device.type == "cuda":
        # As torch.cuda.get_rng_state, without its look for the device each time.
        number = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[number].get_state
    if device.type == "mps":
        return torch.mps.get_rng_state
    return torch.get_rng_state
