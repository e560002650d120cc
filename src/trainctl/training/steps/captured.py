"""The whole step as one CUDA graph: launched at once, instead of kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from trainctl.registry.protocols import Criterion, Model, Optimizer
from trainctl.training.failures import line_of

WARM = 3
"""Steps taken one operation at a time before one is recorded: in them libraries make their workspaces, and
the optimizer its state."""

Step = Callable[..., Tensor]

_failed: list[Any] = []
"""Graphs whose recording failed: the allocator of pinned memory still asks them."""


class CudaGraph:
    """Work on a CUDA device that is recorded once and then launched whole, on the same memory.

    Random numbers go on as if each operation had been launched by itself: the device's generator is
    registered with the graph, and a replay moves its offset by the numbers that the step draws.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graph: Any = None

    def eagerly(self, work: Callable[[], Tensor]) -> Tensor:
        """Do ``work`` now, on the stream of the recording."""
        # Autograd remembers the stream on which a parameter was first used.
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        """Record ``work`` without doing it; returns the tensor of its result."""
        current = torch.cuda.current_stream(self._device)
        # The outer context, because in torch 2.11 a recording that fails does not leave its stream.
        with torch.cuda.device(self._device), torch.cuda.stream(current):
            number = torch.cuda.current_device()
            generator = torch.cuda.default_generators[number]
            # A recording that fails leaves the generator's state unusable, so it gets a copy.
            before = generator.graphsafe_get_state()
            generator.graphsafe_set_state(before.clone_state())
            self._graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
            # Other threads go on and may allocate: autograd's, and the one that pins batches.
            options = {"pool": pool, "stream": self._stream, "capture_error_mode": "thread_local"}
            try:
                with torch.cuda.graph(self._graph, **options):
                    return work()
            except BaseException:
                generator.graphsafe_set_state(before)
                _failed.append(self._graph)
                # Else the allocator counts the recording as going on: no memory that another stream has
                # used, such as a batch of the workers', would ever be free again.
                with suppress(RuntimeError):
                    torch._C._cuda_endAllocateToPool(number, pool)
                    torch._C._cuda_releasePool(number, pool)
                raise

    def replay(self) -> None:
        """Launch the recorded work."""
        self._graph.replay()

    def wait(self) -> None:
        """Wait until the device has done all of its work."""
        torch.cuda.synchronize(self._device)


class ReusedBatch(Protocol):
    """Two tensors for all batches of full size, and what brings the newest samples into them."""

    inputs: Tensor
    targets: Tensor

    def fill(self) -> None: ...


class CapturedStep:
    """Another whole step, recorded after its first few calls and launched as one graph from then on.

    Hooks of criterion and optimizer (clipping, the guard's flag) are recorded with it. A batch of another
    size, such as the last of an epoch, is done one operation at a time. The learning rate is a float32 on the
    device, so that a schedule can change it; the Python number stays in the optimizer's groups. Apart from
    that rounding the values are those of the other step. A step that cannot be recorded goes on one operation
    at a time; none is lost.

    Args:
        step: as :func:`trainctl.training.loop.train_step`.
        size: samples of the batches that are launched from the graph.
        reused: the two tensors in which these come, and what fills them; it is recorded with the step.
            Batches in other tensors are done one operation at a time. None: any batch of ``size`` is copied.
        failed: called once with the reason why the step cannot be recorded.
    """

    def __init__(
        self,
        step: Step,
        size: int,
        graph: CudaGraph,
        failed: Callable[[str], None],
        *,
        reused: ReusedBatch | None = None,
    ) -> None:
        self.step, self.size, self.reused = step, size, reused
        self._graph, self._failed = graph, failed
        self._eager_ones: float = WARM
        self._rates = _Rates()
        self._batch: tuple[Tensor, Tensor] | None = None
        self._loss = torch.empty(())
        self._gradients: list[tuple[Tensor, Tensor | None]] = []
        self._displaced = False

    def __call__(
        self,
        model: Model,
        criterion: Criterion,
        optimizer: Optimizer,
        inputs: Tensor,
        targets: Tensor,
        precision: AbstractContextManager[Any],
    ) -> Tensor:
        """One step; returns the loss, a scalar of its own that is not waited for."""
        self._rates.follow(optimizer, targets.device)
        reused = self.reused
        is_filled = reused is not None and targets is reused.targets
        if is_filled or (reused is None and len(targets) == self.size):
            if self._eager_ones:
                self._eager_ones -= 1
            elif self._batch is None:
                work = partial(self.step, model, criterion, optimizer)
                self._record(work, optimizer, inputs, targets, precision)
            elif (changed := self._changed(inputs, targets)) is not None:
                self._give_up(changed)
            if self._batch is not None:
                return self._replayed(inputs, targets)
        self._displaced = True

        def whole() -> Tensor:
            if is_filled and reused is not None:
                reused.fill()
            return self.step(model, criterion, optimizer, inputs, targets, precision)

        with self._rates.on_device():
            return self._graph.eagerly(whole)

    def _record(
        self, work: Step, optimizer: Optimizer, inputs: Tensor, targets: Tensor, precision: Any
    ) -> None:
        reused = self.reused
        batch = (inputs.clone(), targets.clone()) if reused is None else (inputs, targets)
        errors: list[Exception] = []

        def watched() -> Tensor:
            try:
                if reused is not None:
                    reused.fill()
                return work(*batch, precision)
            except Exception as error:
                errors.append(error)
                raise

        try:
            with self._rates.on_device(capturable=True):
                self._loss = self._graph.record(watched)
        except Exception as error:
            # Ending a recording that is broken raises another error, which says less.
            self._give_up(line_of([*errors, error][0]))
            return
        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        self._gradients, self._displaced = [(item, item.grad) for item in parameters], False
        self._batch = batch
        self._rates.freeze()

    def _replayed(self, inputs: Tensor, targets: Tensor) -> Tensor:
        assert self._batch is not None
        if self._displaced:
            # The graph writes its gradients where they were when it was recorded: show these again.
            for parameter, gradient in self._gradients:
                parameter.grad = gradient
            self._displaced = False
        if self.reused is None:
            for own, given in zip(self._batch, (inputs, targets), strict=True):
                own.copy_(given)
        self._graph.replay()
        return self._loss.clone()

    def _changed(self, inputs: Tensor, targets: Tensor) -> str | None:
        """The difference to the recording, or None."""
        assert self._batch is not None
        if self.reused is None:
            for own, given in zip(self._batch, (inputs, targets), strict=True):
                if own.shape != given.shape or own.dtype != given.dtype:
                    return f"batches of {tuple(own.shape)} and {tuple(given.shape)}"
        key = self._rates.changed()
        return None if key is None else f"the optimizer's {key} changes from step to step"

    def _give_up(self, reason: str) -> None:
        self._batch, self._eager_ones = None, float("inf")
        self._failed(reason)


class _Rates:
    """The learning rates of an optimizer's groups, on the device."""

    def __init__(self) -> None:
        self._groups: list[dict[str, Any]] = []
        self._tensors: list[Tensor] = []
        self._values: list[float] = []
        self._settings: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def follow(self, optimizer: Optimizer, device: torch.device) -> None:
        """Take over what has changed since the last step."""
        self._groups = optimizer.param_groups
        for number, group in enumerate(self._groups):
            if number == len(self._tensors):
                self._tensors.append(torch.empty((), device=device))
                self._values.append(float("nan"))
            if (value := group["lr"]) != self._values[number]:
                self._tensors[number].fill_(value)  # the number goes along with the kernel: no waiting
                self._values[number] = value

    @contextmanager
    def on_device(self, *, capturable: bool = False) -> Iterator[None]:
        """Inside, the optimizer reads the tensors; torch's Adam must know when it is recorded."""
        others = {"capturable": True} if capturable else {}
        kept = [{key: group[key] for key in ("lr", *others) if key in group} for group in self._groups]
        try:
            for group, before, tensor in zip(self._groups, kept, self._tensors, strict=True):
                group.update({**{key: others[key] for key in others if key in before}, "lr": tensor})
            yield
        finally:
            for group, before in zip(self._groups, kept, strict=True):
                group.update(before)

    def freeze(self) -> None:
        """Remember the other settings: they are constants of the recording."""
        self._settings = [(group, dict(group)) for group in self._groups]

    def changed(self) -> str | None:
        """A setting that differs from the recorded one, or None."""
        for group, recorded in self._settings:
            recorded["lr"] = group["lr"]
            # The same object is equal without a look at it, so that this takes less than a microsecond.
            if group != recorded:
                keys = (*group, *recorded)
                return next(key for key in keys if group.get(key, self) != recorded.get(key, self))
        return None
