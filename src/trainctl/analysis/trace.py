"""One training step, watched: what goes in, what each layer gives, what changes, how long it takes.

The step that runs is the loop's own, on the first batch of the first epoch; forward hooks, gradient hooks and
an optimizer pre-hook watch it. Its times are those of later steps, taken on a copy of model and optimizer.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from trainctl.checkpoint.snapshot import RandomStates
from trainctl.config.settings import Config, show
from trainctl.errors import NotFiniteError
from trainctl.registry.protocols import named_modules
from trainctl.training.build import Built
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.hooks.guard import Guard
from trainctl.training.loop import fit
from trainctl.training.run import Run

REST = "everything else"
BY_HAND = "backward and update"
_PHASES = ("forward", "loss", "zero_grad", "backward", "step", BY_HAND, REST)
_TIMED_STEPS = 5
_TIMED_SECONDS = 2.0
_NAMED = 6


@dataclass(frozen=True)
class Values:
    """What is in a tensor, or in the outputs of several calls.

    Attributes:
        shape: of the first one.
        dtype: such as ``float32``.
        low, high: the range of the finite values; None where there are none.
        not_finite: how many values are NaN or infinite.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float | None
    high: float | None
    not_finite: int

    def __add__(self, other: Values) -> Values:
        lows = [each for each in (self.low, other.low) if each is not None]
        highs = [each for each in (self.high, other.high) if each is not None]
        return replace(
            self,
            low=min(lows, default=None),
            high=max(highs, default=None),
            not_finite=self.not_finite + other.not_finite,
        )


@dataclass(frozen=True)
class Layer:
    """A module of the model.

    Attributes:
        name: dotted; the model's own is "".
        kind: its class.
        depth: how many modules it is inside of.
        outputs: what it gave, a tensor each; empty where it was not called.
        calls: how often it was called in the step.
        parameters, trainable: numbers in it, the modules inside included, each once.
    """

    name: str
    kind: str
    depth: int
    outputs: tuple[Values, ...]
    calls: int
    parameters: int
    trainable: int


@dataclass(frozen=True)
class Parameter:
    """What the step did to a parameter. Norms are Euclidean, computed in float64.

    Attributes:
        trainable: whether it asks for a gradient.
        lr: its learning rate; None where the optimizer does not have it.
        before, after: the norm of its value before and after the step.
        gradient: the norm of its gradient after ``backward``; None where it has none.
        clipped: the same as the optimizer saw it; None where it was not asked to step.
        update: the norm of the value's difference.
        zeros: entries of the gradient that are exactly zero.
        unchanged: whether no entry of the value changed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    trainable: bool
    lr: float | None
    before: float
    after: float
    gradient: float | None
    clipped: float | None
    update: float
    zeros: int
    unchanged: bool

    @property
    def zero_gradient(self) -> bool:
        """Whether there is a gradient, and every entry of it is zero."""
        return self.gradient is not None and self.zeros == self.size

    @property
    def relative(self) -> float | None:
        """The update's norm as a share of the value's; None for a value of zeros."""
        return self.update / self.before if self.before else None

    @property
    def marks(self) -> tuple[str, ...]:
        """What a reader should not overlook, in a word or two each."""
        found = []
        if not math.isfinite(self.before):
            found.append("value not finite")
        if not self.trainable:
            found.append("frozen")
        elif self.gradient is None:
            found.append("no gradient")
        elif not math.isfinite(self.gradient):
            found.append("gradient not finite")
        elif self.zero_gradient:
            found.append("zero gradient")
        if self.trainable and self.unchanged:
            found.append("no update")
        if math.isfinite(self.before) and not math.isfinite(self.after):
            found.append("update not finite")
        return tuple(found)


@dataclass(frozen=True)
class Timing:
    """How long a step takes, in seconds.

    Attributes:
        phases: the median of each phase, in the order of the step.
        total: the median of the whole step.
        steps: how many were timed.
        first: the traced step itself, with what happens only once and with the watching.
        synchronized: whether the device was waited for after each phase.
        clipping: whether ``step`` includes the clipping of the gradients.
    """

    phases: Mapping[str, float]
    total: float
    steps: int
    first: float
    synchronized: bool
    clipping: bool


@dataclass(frozen=True)
class Trace:
    """One training step.

    Attributes:
        title: what is trained, in a line.
        settings: the rest of it, with a label each.
        inputs, targets: the batch.
        layers: the model and every module inside it, outermost first.
        parameters: every parameter of the model.
        loss: of the batch, before the step.
        loss_after: of the same batch after the step, with the same random numbers (the same dropout masks);
            only the update differs. None where no step was taken.
        gradient_norm, clipped_norm: of all gradients together, after ``backward`` and as the optimizer saw
            them; None where there are none.
        clip_norm: the largest norm allowed.
        cleared: parameters that had a gradient before the step, which ``zero_grad`` cleared.
        to_clear: parameters that have one after it, which the next ``zero_grad`` clears.
        clears: whether the step calls ``zero_grad``; None where that is not known.
        accumulate: batches in the step.
        refused: why no step was taken, or None.
        timing: how long a step takes; None where none was taken.
        findings: what is remarkable, a plain sentence each.
        not_finite: what is NaN or infinite, in a line; None where nothing is.
    """

    title: str
    settings: tuple[tuple[str, str], ...]
    inputs: Values
    targets: Values
    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]
    loss: float
    loss_after: float | None
    gradient_norm: float | None
    clipped_norm: float | None
    clip_norm: float | None
    cleared: int
    to_clear: int
    clears: bool | None
    accumulate: int
    refused: str | None
    timing: Timing | None
    findings: tuple[str, ...]
    not_finite: str | None


def trace(built: Built, config: Config) -> Trace:
    """Take the first training step of ``built`` and watch it; ``built`` has taken it afterwards.

    Raises what the step raises, except that a guard's refusal is told in ``refused``.
    """
    run = built.run
    run.model.train()
    # Before anything hangs on the parts: hooks would be copied, and what they hold.
    spare = _spare(run, built.trial_step)
    batch = next(iter(run.train_loader.batches()))
    inputs, targets = batch.inputs, batch.targets
    # A model may change its inputs in place.
    kept, seen = (inputs.clone(), targets.clone()), (_values(inputs), _values(targets))
    wait = _waiting(built.device)
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
        refused, loss = f"guard.skip={config.guard.skip} leaves it out", watch.loss
    layers = tuple(_layers(run.model, watch))
    parameters = tuple(_parameters(run.model, watch, values, lrs))
    timing, loss_after = None, None
    if refused is None:
        timing, loss_after = _again(spare, run, kept, random_before, built.device, first)
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
        findings=(),
        not_finite=None,
    )
    result = replace(result, not_finite=_not_finite(result, watch.first_not_finite))
    return replace(result, findings=tuple(_findings(result, config)))


def _settings(built: Built, config: Config) -> tuple[tuple[str, str], ...]:
    train, frozen = config.train, built.parameters - built.trainable
    size = f"batches of {train.batch_size}"
    if train.accumulate > 1:
        size += f" × {train.accumulate}"
    lrs = sorted({float(group["lr"]) for group in built.run.optimizer.param_groups})
    rows = [
        (
            "model",
            f"{config.model.name}: {built.parameters:,} parameters" + f", {frozen:,} frozen" * (frozen > 0),
        ),
        ("data", f"{built.data.name}: {len(built.data.train):,} training samples, {size}"),
        (
            "training",
            f"{config.loss.name}, {config.optim.name} at learning rate {', '.join(f'{lr:g}' for lr in lrs)}",
        ),
        ("step", built.run.step_name),
        ("attached", ", ".join(hook.name for hook in built.run.hooks)),
        ("device", f"{built.device}, threads {built.threads} ({built.threads_note})"),
    ]
    if config.scheduler.name != "none":
        rows.append(("scheduler", f"{config.scheduler.name}: the learning rate is that of step 1"))
    if train.precision != "fp32":
        rows.append(("precision", f"{train.precision}: the forward pass, the weights stay fp32"))
    if config.loop.name != "optimizer":
        own = "" if built.fit is fit else ", which has a loop of its own around this step"
        rows.append(("loop", f"{config.loop.name}{own}"))
    return tuple(rows)


# ------------------------------------------------------------------- watching


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
        """Watch inside. The run's own hooks start between, as training starts them."""
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
        # Behind the one that clips.
        handles.append(run.optimizer.register_step_pre_hook(self._about_to_step))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _called(self, module: Any, inputs: Any, outputs: Any) -> None:
        key, found = id(module), tuple(_values(each) for each in _tensors(outputs))
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


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """The tensors of a module's outputs: of one, of a tuple or list, of a dictionary."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for each in outputs.values():
            yield from _tensors(each)
    elif isinstance(outputs, Sequence) and not isinstance(outputs, str):
        for each in outputs:
            yield from _tensors(each)


def _values(tensor: Tensor) -> Values:
    content = tensor.detach()
    finite = torch.isfinite(content)
    if not_finite := int(content.numel() - finite.sum()):
        content = content[finite]
    if content.is_complex():
        content = content.abs()
    low, high = content.aminmax() if content.numel() else (None, None)
    return Values(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        not_finite=not_finite,
    )


def _norm(tensor: Tensor) -> Tensor:
    """The Euclidean norm in float64: squares of small gradients are zero in float32."""
    norm: Tensor = torch.linalg.vector_norm(_wide(tensor.detach()))
    return norm


def _wide(tensor: Tensor) -> Tensor:
    """The values in float64, which MPS does not have; sparse ones with their zeros."""
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    return (dense.cpu() if dense.device.type == "mps" else dense).double()


def _together(norms: Iterable[float | None]) -> float | None:
    """The norm of several tensors together, from theirs."""
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


# ------------------------------------------------------------------- on a copy


def _spare(run: Run, step: Callable[..., Tensor]) -> Run:
    """A run on copies of model, criterion and optimizer, with what clips but without what guards."""
    model, criterion, optimizer = copy.deepcopy((run.model, run.criterion, run.optimizer))
    hooks = [hook for hook in run.hooks if not isinstance(hook, Guard)]
    return replace(run, model=model, criterion=criterion, optimizer=optimizer, hooks=hooks, step=step)


def _again(
    spare: Run,
    run: Run,
    batch: tuple[Tensor, Tensor],
    random_before: Mapping[str, Any],
    device: torch.device,
    first: float,
) -> tuple[Timing, float]:
    """Steps of ``spare`` on the same batch, from the parameters that ``run`` has now.

    The loss of the first of them is the loss after the step: the same random numbers, only the update
    differs. The ones after it are timed. The random numbers of ``run`` are put back.
    """
    random_states = RandomStates(device)
    random_now = random_states.state_dict()
    spare.model.load_state_dict(run.model.state_dict())
    spare.call("start")
    wait = _waiting(device)
    try:
        random_states.load_state_dict(random_before)
        parts = spare.model, spare.criterion, spare.optimizer
        loss_after = float(spare.step(*parts, *batch, spare.precision))
        times: list[dict[str, float]] = []
        started = time.perf_counter()
        while len(times) < _TIMED_STEPS and (not times or time.perf_counter() - started < _TIMED_SECONDS):
            clock = _Clock(wait)
            spare.step(
                _Timed(spare.model, clock, "forward"),
                _Timed(spare.criterion, clock, "loss"),
                _Timed(spare.optimizer, clock, "", zero_grad="zero_grad", step="step"),
                *batch,
                spare.precision,
            )
            times.append(clock.stopped())
    finally:
        random_states.load_state_dict(random_now)
    phases = [phase for phase in _PHASES if any(phase in each for each in times)]
    timing = Timing(
        phases={phase: median(each.get(phase, 0.0) for each in times) for phase in phases},
        total=median(sum(each.values()) for each in times),
        steps=len(times),
        first=first,
        synchronized=device.type != "cpu",
        clipping=any(isinstance(hook, ClipNorm) for hook in spare.hooks),
    )
    return timing, loss_after


def _waiting(device: torch.device) -> Callable[[], None]:
    """Waits until ``device`` has done what it was given; on the CPU it has."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


@dataclass
class _Clock:
    """Takes the times of one step's parts, and of what lies between them."""

    wait: Callable[[], None]
    spans: list[tuple[str, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin = self.now()

    def now(self) -> float:
        self.wait()
        return time.perf_counter()

    def time(self, phase: str, call: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
        began = self.now()
        result = call(*inputs, **settings)
        self.spans.append((phase, began, self.now()))
        return result

    def stopped(self) -> dict[str, float]:
        """Seconds a phase. ``backward`` is called on the loss itself, so it is the time between."""
        end = self.now()
        steps = any(phase == "step" for phase, _, _ in self.spans)
        seconds: dict[str, float] = {}
        before, compared, stepped = self.begin, False, False
        for phase, began, ended in [*self.spans, ("", end, end)]:
            between = REST
            if compared and not stepped and phase != "zero_grad":
                between = "backward" if steps else BY_HAND
            seconds[between] = seconds.get(between, 0.0) + began - before
            if phase:
                seconds[phase] = seconds.get(phase, 0.0) + ended - began
            before, compared, stepped = ended, compared or phase == "loss", stepped or phase == "step"
        return seconds


class _Timed:
    """Stands for a part of a run in the step: times its call and the methods named, and is it otherwise."""

    def __init__(self, part: Any, clock: _Clock, called: str, **methods: str) -> None:
        self._part, self._clock, self._called, self._methods = part, clock, called, methods

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        return self._clock.time(self._called, self._part, *inputs, **settings)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        phase = self._methods.get(name)
        return found if phase is None else partial(self._clock.time, phase, found)


# ------------------------------------------------------------------- sentences


def _not_finite(result: Trace, first: tuple[str, str] | None) -> str | None:
    """What is NaN or infinite and where it begins, as far as it reaches the loss, a gradient or a value."""
    bad_values = [each.name for each in result.parameters if not math.isfinite(each.before)]
    bad_gradients = [
        each.name
        for each in result.parameters
        if each.gradient is not None and not math.isfinite(each.gradient)
    ]
    bad_updates = [each.name for each in result.parameters if not math.isfinite(each.after)]
    where = ""
    if bad_values:
        where = f"; {_some(bad_values)} had such a value before the step"
    elif result.inputs.not_finite:
        where = f"; {result.inputs.not_finite:,} values of the inputs are not finite"
    elif first is not None:
        where = f"; the first output that is not finite is that of {_place(*first)}"
    if not math.isfinite(result.loss):
        return f"the loss is {result.loss}{where or '; the outputs of the model are finite'}"
    if bad_gradients:
        return f"the gradient of {_some(bad_gradients)} is not finite{where}"
    if bad_updates:
        return f"after the step {_some(bad_updates)} is not finite{where}"
    if result.loss_after is not None and not math.isfinite(result.loss_after):
        return f"after the step the loss of the same batch is {result.loss_after}"
    return None


def _findings(result: Trace, config: Config) -> Iterator[str]:
    """What is remarkable, the gravest first; parameters with one reason share a sentence."""
    if result.not_finite is not None:
        yield result.not_finite
    if result.refused is not None:
        yield f"no step was taken: {result.refused}"
    reasons: dict[str, list[str]] = {}
    for parameter in result.parameters:
        for reason in _reasons(parameter, result, config):
            reasons.setdefault(reason, []).append(parameter.name)
    for reason, names in reasons.items():
        yield f"{_some(names)}: {reason}"


def _reasons(parameter: Parameter, result: Trace, config: Config) -> Iterator[str]:
    if not parameter.trainable:
        yield f"no gradient: {_frozen_by(parameter.name, config)}"
        return
    if parameter.gradient is None:
        if not parameter.unchanged:
            yield f"no gradient of autograd: loop={config.loop.name} computes the update itself"
        elif result.refused is None:
            yield f"no gradient: {_unreached(parameter.name, result)}"
        return
    if not math.isfinite(parameter.gradient):
        yield "a gradient that is not finite"
    elif parameter.zero_gradient:
        yield "a gradient of zero" + (
            ", so no update"
            if parameter.unchanged
            else ": the update is the optimizer's own (weight decay, say)"
        )
    if parameter.unchanged and not parameter.zero_gradient and result.refused is None:
        yield f"an update of zero: {_unmoved(parameter, result)}"


def _frozen_by(name: str, config: Config) -> str:
    patterns = config.model.common.get("freeze", ())
    matching = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
    return f"frozen by model.freeze={show(matching)}" if matching else "frozen by the model itself"


def _unreached(name: str, result: Trace) -> str:
    owner = name.rpartition(".")[0]
    layer = next((each for each in result.layers if each.name == owner), None)
    if layer is not None and layer.name and not layer.calls:
        return f"not reached by the loss ({_place(layer.name, layer.kind)} was not called)"
    return "not reached by the loss"


def _unmoved(parameter: Parameter, result: Trace) -> str:
    if parameter.lr is None:
        return "the optimizer does not have it"
    if not math.isfinite(result.loss + (result.gradient_norm or 0.0)):
        return "the guard kept the optimizer from taking the step"
    if parameter.lr == 0:
        return "its learning rate is 0"
    return f"at learning rate {parameter.lr:g} it is lost in the rounding of {parameter.dtype}"


def _place(name: str, kind: str) -> str:
    return f"{name} ({kind})" if name else f"the model ({kind})"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
