"""One training step, traced: its inputs, each layer's outputs, every change, and the time it takes.

The traced step is the loop's own, on the first batch of the first epoch, observed by forward hooks, gradient
hooks and an optimizer pre-hook. Its times are those of ``step_timing``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainctl.analysis.step_timing import spare_run, step_again, waiting
from trainctl.analysis.trace_report import Layer, Parameter, Trace, with_findings
from trainctl.analysis.values import Values, tensors_in, values_of
from trainctl.checkpoint.snapshot import RandomStates
from trainctl.components.losses.auto import loss_name
from trainctl.config.settings import Config
from trainctl.data.inputs import Inputs
from trainctl.data.sampler import Share
from trainctl.errors import NotFiniteError
from trainctl.registry.protocols import named_modules
from trainctl.training.built import Built
from trainctl.training.loop import fit
from trainctl.training.run import Run


def trace(built: Built, config: Config) -> Trace:
    """Take the first training step of ``built`` and observe it; it changes ``built``.

    Raises what the step raises, except for a guard's refusal, which is in ``refused``.
    """
    run = built.run
    run.model.train()
    # Copied before any hook is registered: hooks would be copied, too.
    spare = spare_run(run, built.trial_step)
    batch = next(iter(run.train_loader.batches()))
    inputs, targets = batch.inputs, batch.targets
    # A model may change its inputs in place.
    kept, seen = (inputs.clone(), targets.clone()), (_values_by_name(inputs), values_of(targets))
    wait = waiting(built.device)
    random_before = RandomStates(built.device).state_dict()
    watch = _Watch(run)
    lrs = {id(item): float(group["lr"]) for group in run.optimizer.param_groups for item in group["params"]}
    values = {name: item.detach().clone() for name, item in run.model.named_parameters()}
    cleared = _with_gradient(run)
    refused: str | None = None
    with watch.attached():
        run.call("batch", batch)
        wait()
        started = time.perf_counter()
        try:
            stepped = run.step(run.model, run.criterion, run.optimizer, inputs, targets, run.precision)
            wait()
            loss = float(stepped)
        except NotFiniteError as error:
            refused, loss = str(error), watch.loss
        first = time.perf_counter() - started
    if run.state.skipped:
        refused, loss = f"guard.skip={config.guard.skip} skips it", watch.loss
    layers = tuple(_layers(run.model, watch))
    parameters = tuple(_parameters(run.model, watch, values, lrs))
    timing, loss_after = None, None
    if refused is None:
        timing, loss_after = step_again(spare, run, kept, random_before, built.device, first)
    result = Trace(
        title=f"one training step: {config.model.name} on {built.data.name}",
        settings=_settings(built, config),
        inputs=seen[0],
        targets=seen[1],
        layers=layers,
        parameters=parameters,
        loss=loss,
        loss_after=loss_after,
        gradient_norm=_together(each.gradient for each in parameters),
        clipped_norm=_together(each.clipped for each in parameters),
        clip_norm=config.train.clip_norm,
        cleared=cleared,
        to_clear=_with_gradient(run),
        clears=None if timing is None else "zero_grad" in timing.phases,
        accumulate=config.train.accumulate,
        refused=refused,
        timing=timing,
    )
    return with_findings(result, config, watch.first_not_finite)


def _slices(devices: int, samples: int) -> str:
    """Which samples of a batch each device takes; of many devices the first two and the last."""
    told = []
    for rank in range(devices):
        begin, end = Share(rank, devices).bounds(0, samples)
        if rank < 2 or rank == devices - 1:
            told.append(f"rank {rank} {begin + 1} to {end}")
        elif rank == 2:
            told.append("…")
    return f"{devices}, traced as one; of {samples} samples {', '.join(told)}"


def _settings(built: Built, config: Config) -> tuple[tuple[str, str], ...]:
    train, frozen = config.train, built.parameters - built.trainable
    size = f"batches of {train.batch_size}"
    if train.accumulate > 1:
        size += f" × {train.accumulate}"
    lrs = sorted({float(group["lr"]) for group in built.run.optimizer.param_groups})
    loss = loss_name(config.loss.name, built.data.task)
    rows = [
        (
            "model",
            f"{config.model.name}: {built.parameters:,} parameters" + f", {frozen:,} frozen" * (frozen > 0),
        ),
        ("data", f"{built.data.name}: {len(built.data.train):,} training samples, {size}"),
        (
            "training",
            f"{loss}, {config.optim.name} at learning rate {', '.join(f'{lr:g}' for lr in lrs)}",
        ),
        ("step", built.run.step_name),
        ("attached", ", ".join(hook.name for hook in built.run.hooks)),
        ("device", f"{built.device}, threads {built.threads} ({built.threads_note})"),
    ]
    if isinstance(config.devices, int) and config.devices > 1:
        rows.append(("devices", _slices(config.devices, train.batch_size * train.accumulate)))
    if config.scheduler.name != "none":
        rows.append(("scheduler", f"{config.scheduler.name}: the learning rate is that of step 1"))
    if train.precision != "fp32":
        rows.append(("precision", f"{train.precision}: the forward pass, the weights stay fp32"))
    if config.loop.name != "optimizer":
        own = "" if built.fit is fit else ", which has a loop of its own around this step"
        rows.append(("loop", f"{config.loop.name}{own}"))
    return tuple(rows)


class _Watch:
    """Hooks on every module, the criterion, every parameter's gradient, and before the optimizer's step."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.outputs: dict[int, tuple[Values, ...]] = {}
        self.calls: dict[int, int] = {}
        self.gradients: dict[int, tuple[Tensor, Tensor]] = {}
        self.clipped: dict[int, Tensor] = {}
        self.loss = math.nan
        self.first_not_finite: tuple[str, str] | None = None
        self._names: dict[int, tuple[str, str]] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Observe inside. The run's own hooks start in between, in the order of training."""
        run, handles = self.run, []
        for name, module in named_modules(run.model):
            if id(module) not in self._names:
                self._names[id(module)] = (name, type(module).__name__)
                handles.append(module.register_forward_hook(self._called))
        handles.append(run.criterion.register_forward_hook(self._compared))
        for parameter in run.model.parameters():
            if parameter.requires_grad:
                handles.append(parameter.register_post_accumulate_grad_hook(self._accumulated))
        run.call("start")
        # After the one that clips.
        handles.append(run.optimizer.register_step_pre_hook(self._about_to_step))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _called(self, module: Any, inputs: Any, outputs: Any) -> None:
        key, found = id(module), tuple(map(values_of, tensors_in(outputs)))
        before = self.outputs.get(key)
        if before is not None and len(before) == len(found):
            found = tuple(one + other for one, other in zip(before, found, strict=True))
        self.outputs[key] = found
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.first_not_finite is None and any(each.not_finite for each in found):
            self.first_not_finite = self._names[key]

    def _compared(self, criterion: Any, inputs: Any, loss: Tensor) -> None:
        self.loss = float(loss.detach())

    def _accumulated(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            gradient = _wide(parameter.grad)
            self.gradients[id(parameter)] = _norm(gradient), gradient.count_nonzero()

    def _about_to_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        for parameter in self.run.model.parameters():
            if parameter.grad is not None:
                self.clipped[id(parameter)] = _norm(parameter.grad)


def _values_by_name(inputs: Any) -> dict[str, Values]:
    if isinstance(inputs, Inputs):
        return {f"input {name}": values_of(part) for name, part in inputs.parts.items()}
    return {"inputs": values_of(inputs)}


def _norm(tensor: Tensor) -> Tensor:
    """The Euclidean norm in float64: squares of small gradients are zero in float32."""
    norm: Tensor = torch.linalg.vector_norm(_wide(tensor.detach()))
    return norm


def _wide(tensor: Tensor) -> Tensor:
    """The values as dense float64, on the CPU for MPS, which lacks float64."""
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    return (dense.cpu() if dense.device.type == "mps" else dense).double()


def _together(norms: Iterable[float | None]) -> float | None:
    """The norm of several tensors together, from their norms."""
    known = [norm for norm in norms if norm is not None]
    return math.sqrt(sum(norm * norm for norm in known)) if known else None


def _with_gradient(run: Run) -> int:
    return sum(item.grad is not None for group in run.optimizer.param_groups for item in group["params"])


def _layers(model: Any, watch: _Watch) -> Iterator[Layer]:
    for name, module in named_modules(model):
        parameters = list(module.parameters())
        yield Layer(
            name=name,
            kind=type(module).__name__,
            depth=name.count(".") + 1 if name else 0,
            outputs=watch.outputs.get(id(module), ()),
            calls=watch.calls.get(id(module), 0),
            parameters=sum(each.numel() for each in parameters),
            trainable=sum(each.numel() for each in parameters if each.requires_grad),
        )


def _parameters(
    model: Any, watch: _Watch, values: Mapping[str, Tensor], lrs: Mapping[int, float]
) -> Iterator[Parameter]:
    for name, parameter in model.named_parameters():
        key, before, after = id(parameter), values[name], parameter.detach()
        norm, nonzero = watch.gradients.get(key, (None, None))
        clipped = watch.clipped.get(key)
        yield Parameter(
            name=name,
            shape=tuple(parameter.shape),
            dtype=str(parameter.dtype).removeprefix("torch."),
            size=parameter.numel(),
            trainable=parameter.requires_grad,
            lr=lrs.get(key),
            before=float(_norm(before)),
            after=float(_norm(after)),
            gradient=None if norm is None else float(norm),
            clipped=None if clipped is None else float(clipped),
            # In float64: the difference of two float32 may be too small for float32.
            update=float(_norm(_wide(after) - _wide(before))),
            zeros=0 if nonzero is None else parameter.numel() - int(nonzero),
            unchanged=torch.equal(before, after),
        )
