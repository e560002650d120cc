"""What a trace of one training step holds, and what is remarkable about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial

from trainctl.analysis.values import Values
from trainctl.config.settings import Config
from trainctl.registry.constraints import show, some

_some = partial(some, most=6)


@dataclass(frozen=True)
class Layer:
    """A module of the model.

    Attributes:
        name: dotted; the model's own is "".
        kind: its class.
        depth: how many modules enclose it.
        outputs: one entry a tensor; empty where it was not called.
        calls: how often it was called in the step.
        parameters, trainable: numbers in it and the modules inside it, each counted once.
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
    """A parameter before and after the step. Norms are Euclidean, computed in float64.

    Attributes:
        lr: its learning rate; None where the optimizer does not have it.
        before, after: the norm of its value before and after the step.
        gradient: the norm of its gradient after ``backward``; None where it has none.
        clipped: the same as the optimizer saw it; None where no step was taken.
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
    def bad_gradient(self) -> bool:
        """Whether there is a gradient that is not finite."""
        return self.gradient is not None and not math.isfinite(self.gradient)

    @property
    def relative(self) -> float | None:
        """The norm of the update divided by that of the value; None for a value of zeros."""
        return self.update / self.before if self.before else None

    @property
    def marks(self) -> tuple[str, ...]:
        """What a reader should not overlook, in a word or two each."""
        finite = math.isfinite(self.before)
        marks = {
            "value not finite": not finite,
            "frozen": not self.trainable,
            "no gradient": self.trainable and self.gradient is None,
            "gradient not finite": self.trainable and self.bad_gradient,
            "zero gradient": self.trainable and self.zero_gradient,
            "no update": self.trainable and self.unchanged,
            "update not finite": finite and not math.isfinite(self.after),
        }
        return tuple(mark for mark, applies in marks.items() if applies)


@dataclass(frozen=True)
class Timing:
    """How long a step takes, in seconds.

    Attributes:
        phases: the median of each phase, in the order of the step.
        total: the median of the whole step.
        steps: how many were timed.
        first: the traced step itself, including one-time costs and the tracing.
        synchronized: whether the clock waited for the device after each phase.
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
        title: model and dataset, in a line.
        settings: the other settings, as (label, text).
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
        findings: what is remarkable, one sentence each.
        not_finite: what is NaN or infinite, in a line; None where nothing is.
    """

    title: str
    settings: tuple[tuple[str, str], ...]
    inputs: Mapping[str, Values]
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
    findings: tuple[str, ...] = ()
    not_finite: str | None = None


def with_findings(result: Trace, config: Config, first_not_finite: tuple[str, str] | None) -> Trace:
    """``result`` with its sentences; ``first_not_finite`` is the layer whose output was the first that is
    not finite, by name and class."""
    result = replace(result, not_finite=_not_finite(result, first_not_finite))
    return replace(result, findings=tuple(_findings(result, config)))


def _not_finite(result: Trace, first: tuple[str, str] | None) -> str | None:
    """What is NaN or infinite and where it begins, if it reaches the loss, a gradient or a value."""
    bad_values = [each.name for each in result.parameters if not math.isfinite(each.before)]
    bad_gradients = [each.name for each in result.parameters if each.bad_gradient]
    bad_updates = [each.name for each in result.parameters if not math.isfinite(each.after)]
    where = ""
    if bad_values:
        where = f"; {_some(bad_values)} was not finite before the step"
    elif bad_inputs := sum(each.not_finite for each in result.inputs.values()):
        where = f"; {bad_inputs:,} values of the inputs are not finite"
    elif first is not None:
        where = f"; the first output that is not finite is that of {_layer(*first)}"
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
    """What is remarkable, most serious first; parameters with the same reason share a sentence."""
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
        patterns = config.model.common.get("freeze", ())
        matching = [pattern for pattern in patterns if fnmatchcase(parameter.name, pattern)]
        yield f"no gradient: frozen by {f'model.freeze={show(matching)}' if matching else 'the model itself'}"
    elif parameter.gradient is None:
        if not parameter.unchanged:
            yield f"no gradient from autograd: loop={config.loop.name} computes the update itself"
        elif result.refused is None:
            yield f"no gradient: {_unreached(parameter.name, result)}"
    elif parameter.bad_gradient:
        yield "a gradient that is not finite"
    elif parameter.zero_gradient:
        yield "a gradient of zero" + (
            ", so no update" if parameter.unchanged else ": the update is the optimizer's own (weight decay?)"
        )
    if (
        parameter.trainable
        and parameter.gradient is not None
        and parameter.unchanged
        and not parameter.zero_gradient
        and result.refused is None
    ):
        yield f"an update of zero: {_unmoved(parameter, result)}"


def _unreached(name: str, result: Trace) -> str:
    owner = name.rpartition(".")[0]
    layer = next((each for each in result.layers if each.name == owner), None)
    if layer is not None and layer.name and not layer.calls:
        return f"not reached by the loss ({_layer(layer.name, layer.kind)} was not called)"
    return "not reached by the loss"


def _unmoved(parameter: Parameter, result: Trace) -> str:
    if parameter.lr is None:
        return "the optimizer does not have it"
    if not math.isfinite(result.loss + (result.gradient_norm or 0.0)):
        return "the guard skipped the optimizer's step"
    if parameter.lr == 0:
        return "its learning rate is 0"
    return f"at learning rate {parameter.lr:g} it is lost in the rounding of {parameter.dtype}"


def _layer(name: str, kind: str) -> str:
    return f"{name} ({kind})" if name else f"the model ({kind})"
