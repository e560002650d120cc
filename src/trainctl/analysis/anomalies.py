"""Where in a step the first value appears that is not finite, and by what.

Hooks on every module, and on every node of the graph that the backward pass goes through, look at what
passes. torch's anomaly detection keeps, for each node, the line of the forward pass that made it.
"""

from __future__ import annotations

import math
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trainctl.registry.protocols import named_modules

_SAMPLES = 5
_TORCH = str(Path(torch.__file__).parent)
_PACKAGE = Path(__file__).parent
_SCRATCH = str(_PACKAGE / "scratch")
_REPLAY = str(_PACKAGE / "replay.py")
_FRAME = re.compile(r'File "(.*)", line (\d+), in .*\n\s*(.*)')


@dataclass(frozen=True)
class Values:
    """What is in a tensor.

    Attributes:
        low, high: the range of the finite values; None where there are none.
        size, finite: how many values there are, and how many of them are finite.
    """

    shape: tuple[int, ...]
    low: float | None
    high: float | None
    size: int
    finite: int


# ------------------------------------------------------------------- watching


class SteppingError(Exception):
    """Ends the step before the optimizer's: the parameters stay those of the capsule."""


@dataclass(frozen=True)
class Operation:
    """What was computed: its name, what it gave (infinity or NaN), and the line that asked for it."""

    name: str
    gave: str
    line: str


@dataclass(eq=False)
class Call:
    """A module that runs, or has run.

    Attributes:
        name: dotted; ``model`` and ``loss`` for the outermost ones.
        kind: its class.
        batch: of the step's batches the how many-th, from 1.
        is_leaf: whether no module ran inside of it.
        is_loss: whether it is the loss function, or inside of it.
        outputs: what it gave; None before it ends.
        samples: which of the batch's are bad in it; all of them, or none that can be told, are ().
        gradient: of its outputs.
        operations: in it, the first that made something not finite of what is finite, and where that is an
            infinity the first that made NaN.
    """

    name: str
    kind: str
    batch: int
    is_loss: bool
    is_leaf: bool = True
    outputs: Values | None = None
    samples: tuple[int, ...] = ()
    gradient: Values | None = None
    operations: list[Operation] = field(default_factory=list)


class Watch:
    """Looks at all that a step computes.

    Attributes:
        calls: the modules that ran, in the order in which they ended.
        batch, samples_before: of the batch that is computed: its number from 1, the samples before it.
        loss, loss_bad, model_bad: of the first bad batch, or of the last.
        first: the module whose own computation gave the first bad value, and the one that got it as an input
            where it is not an output.
        gradient: the node of the graph that gave the first bad gradient, and whether it had got a finite one.
        reached: the parameters whose gradient is bad, in the order of the backward pass.
        bad_parameters: those that are bad before the step.
    """

    def __init__(self, model: Any, criterion: Any) -> None:
        self.model, self.criterion = model, criterion
        self.calls: list[Call] = []
        self.batch, self.samples_before, self._samples = 0, 0, 0
        self.loss, self.loss_bad, self.model_bad = math.nan, False, False
        self.first: tuple[Call, Call | None] | None = None
        self.gradient: tuple[Any, bool] | None = None
        self.reached: list[str] = []
        self.bad_parameters = [name for name, item in model.named_parameters() if not _finite(item)]
        self._open: list[tuple[Any, Call]] = []
        self._owners: dict[Any, Call | None] = {}
        self._hooked: set[Any] = set()
        self._names = {id(item): name for name, item in model.named_parameters()}
        self._modules: dict[int, tuple[str, bool, Any]] = {}
        for is_loss, outermost, module in ((False, "model", model), (True, "loss", criterion)):
            for name, each in named_modules(module, "loss" if is_loss else ""):
                self._modules.setdefault(id(each), (name or outermost, is_loss, each))

    @contextmanager
    def attached(self, optimizer: Any) -> Iterator[None]:
        """Watch inside; the optimizer's step raises SteppingError."""
        handles = [optimizer.register_step_pre_hook(self._about_to_step)]
        for name, is_loss, module in self._modules.values():
            handles.append(_before(module, partial(self._enter, name, is_loss)))
            handles.append(module.register_forward_hook(self._leave))
        try:
            with torch.autograd.set_detect_anomaly(True, check_nan=False), _Operations(self):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def owner(self, node: Any) -> Call | None:
        """The module that computed a node of the graph."""
        return self._owners.get(node)

    # ---- forward

    def _enter(self, name: str, is_loss: bool, module: Any, inputs: Any) -> None:
        outer = self._open[-1][1] if self._open else None
        self._own(inputs, outer)
        if module is self.model and not self.loss_bad:
            self.batch, self.samples_before = self.batch + 1, self.samples_before + self._samples
            self._samples = len(next(_tensors(inputs)))
        call = Call(name, type(module).__name__, self.batch, is_loss)
        if outer is not None:
            outer.is_leaf = False
            if self.first is None and not _finite(inputs):
                self.first = outer, call
        self._open.append((module, call))

    def _leave(self, module: Any, inputs: Any, outputs: Any) -> None:
        passed_over: list[Operation] = []
        while self._open[-1][0] is not module:
            # It raised, and its error was caught: what was noted since then was computed out here.
            passed_over += self._open.pop()[1].operations
        _, call = self._open.pop()
        call.operations = [*call.operations, *passed_over][:2]
        if self.loss_bad:
            return  # a later batch of the step
        self._own(outputs, call)
        tensors = list(_tensors(outputs))
        call.outputs, bad = values_of(tensors), not _finite(tensors)
        self.calls.append(call)
        if bad:
            call.samples = self._bad_samples(tensors)
            self.first = self.first or (call, None)
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(partial(self._gradient_of, call))  # type: ignore[no-untyped-call]
        if module is self.model:
            self.model_bad = bad
        if module is self.criterion:
            self.loss, self.loss_bad = float(outputs.detach()), bad
            self._hook_backward()
        if module in (self.model, self.criterion) and not bad:
            self.first = None  # an infinity inside, such as that of a mask, did no harm

    def _bad_samples(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        rows = [each for each in tensors if each.dim() and len(each) == self._samples]
        bad = sorted({number for each in rows for number in bad_rows(each)})
        return () if len(bad) == self._samples else tuple(self.samples_before + number for number in bad)

    def computed(self, function: Any, given: Any, result: Any) -> None:
        """Note an operation that gave something not finite."""
        if not self._open or _finite(result):
            return
        name, known = _name_of(function), self._open[-1][1].operations
        if name.startswith(("empty", "new_empty")) or (known and known[-1].gave == "NaN"):
            return
        has_nan = any(bool(each.isnan().any()) for each in _tensors(result) if each.is_floating_point())
        had_nan = any(bool(each.isnan().any()) for each in _tensors(given) if each.is_floating_point())
        if (has_nan and not had_nan) or (not known and _finite(given)):
            line = _line(traceback.format_stack())
            known.append(Operation(name, "NaN" if has_nan else "infinity", line))

    # ---- backward

    def _own(self, tensors: Any, call: Call | None) -> None:
        """What is in the graph of ``tensors`` and has no owner yet was computed in ``call``."""
        left = [each.grad_fn for each in _tensors(tensors) if each.grad_fn is not None]
        while left:
            node = left.pop()
            if node not in self._owners:
                self._owners[node] = call
                left += [each for each, _ in node.next_functions if each is not None]

    def _hook_backward(self) -> None:
        for node in self._owners.keys() - self._hooked:
            self._hooked.add(node)
            variable = getattr(node, "variable", None)
            if variable is None:
                node.register_hook(partial(self._passed, node))
            else:
                node.register_prehook(partial(self._reached, variable))

    def _passed(self, node: Any, grad_inputs: Any, grad_outputs: Any) -> None:
        if self.gradient is None and not _finite(grad_inputs):
            self.gradient = node, _finite(grad_outputs)

    def _reached(self, variable: Tensor, grad_outputs: Any) -> None:
        if id(variable) in self._names and not _finite(grad_outputs):
            self._note(self._names[id(variable)])

    def _about_to_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        for name, item in self.model.named_parameters():
            if item.grad is not None and not _finite(item.grad):
                self._note(name)
        raise SteppingError

    def _note(self, name: str) -> None:
        if name not in self.reached:
            self.reached.append(name)

    def _gradient_of(self, call: Call, gradient: Tensor) -> None:
        call.gradient = values_of([gradient])


class _Operations(TorchFunctionMode):
    """Shows a watch all that is asked of torch."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        settings = settings or {}
        if function.__name__ == "__get__":  # an attribute
            return function(*arguments, **settings)
        # Copies: an operation in place changes what it is given.
        given = [each.detach().clone() for each in _tensors([arguments, settings])]
        result = function(*arguments, **settings)
        self.watch.computed(function, given, result)
        return result


class _Handle:
    """Takes something off again."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self.remove = remove


def _before(module: Any, hook: Callable[[Any, Any], None]) -> Any:
    """Have ``hook(module, inputs)`` called before the module runs."""
    if hasattr(module, "register_forward_pre_hook"):
        return module.register_forward_pre_hook(hook)
    forward = module.forward

    def watched(*inputs: Any, **settings: Any) -> Any:
        hook(module, inputs)
        return forward(*inputs, **settings)

    module.forward = watched
    return _Handle(lambda: delattr(module, "forward"))


# ------------------------------------------------------------------- finding


@dataclass(frozen=True)
class Place:
    """Where the first value is that is not finite.

    Attributes:
        said: it, a clause.
        kind: inputs, targets, parameters, forward, loss, or backward.
        call: the layer; None for what is in none.
        operation: the name of what was computed there.
        line: of the forward pass.
    """

    said: str
    kind: str
    call: Call | None = None
    operation: str = ""
    line: str = ""


def find(watch: Watch, inputs: Tensor, targets: Tensor) -> Place | None:
    """The first place in the order of the step, or None where all is finite."""
    if watch.loss_bad:
        return _find_forward(watch, inputs, targets)
    if not watch.reached:
        return None
    if watch.gradient is None:
        said = f"the gradients of the batches are finite, their sum is not: {_listed(watch.reached)}"
        return Place(said, "backward")
    return _find_backward(watch, *watch.gradient)


def _find_forward(watch: Watch, inputs: Tensor, targets: Tensor) -> Place:
    if watch.model_bad:
        if not _finite(inputs):
            return Place(f"in the inputs: {_bad_said(inputs)}", "inputs")
        if watch.bad_parameters:
            said = f"in the parameters, before the step: {_listed(watch.bad_parameters)}"
            return Place(said, "parameters")
    elif not _finite(targets):
        return Place(f"in the targets: {_bad_said(targets)}", "targets")
    assert watch.first is not None
    call, before = watch.first
    said = f"in the {'loss function' if call.is_loss else 'forward pass'}, {_called(call)}"
    if before is not None:
        said += f", in its own code before {_called(before)}"
    if call.operations:
        said += ": " + ", then ".join(f"{each.name} gives {each.gave}" for each in call.operations)
    if call.samples:
        said += f", in {_samples_said(call.samples)}"
    kind = "loss" if call.is_loss else "forward"
    if not call.operations:
        return Place(said, kind, call)
    return Place(said, kind, call, call.operations[0].name, call.operations[0].line)


def _find_backward(watch: Watch, node: Any, got_finite: bool) -> Place:
    call = watch.owner(node)
    said = "in the backward pass" + ("" if call is None else f", {_called(call)}")
    if got_finite:
        said += f": {node.name()} makes an infinite or undefined gradient of a finite one"
    else:
        said += f": the gradients that come together at {node.name()} overflow in their sum"
    said += f", which reaches {_listed(watch.reached)}"
    return Place(said, "backward", call, node.name(), _line(node.metadata.get("traceback_", ())))


def _called(call: Call) -> str:
    return f"{call.name} ({call.kind})"


def _listed(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _samples_said(samples: Sequence[int]) -> str:
    more = f" and {len(samples) - _SAMPLES} more" if len(samples) > _SAMPLES else ""
    listed = ", ".join(map(str, samples[:_SAMPLES]))
    return f"sample{'s' * (len(samples) > 1)} {listed}{more} of the batch, counted from 0"


def _bad_said(tensor: Tensor) -> str:
    bad = int((~torch.isfinite(tensor)).sum())
    are = "is" if bad == 1 else "are"
    return f"{bad:,} of {tensor.numel():,} values {are} not finite, in {_samples_said(bad_rows(tensor))}"


# ------------------------------------------------------------------- values and lines


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and dictionaries of them."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for each in values.values():
            yield from _tensors(each)
    elif isinstance(values, list | tuple):
        for each in values:
            yield from _tensors(each)


def _finite(values: Any) -> bool:
    dense = (each.to_dense() if each.is_sparse else each for each in _tensors(values))
    return all(bool(torch.isfinite(each).all()) for each in dense)


def bad_rows(tensor: Tensor) -> list[int]:
    """Where along the first dimension a tensor has values that are not finite."""
    bad: list[int] = (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero().flatten().tolist()
    return bad


def values_of(tensors: Sequence[Tensor]) -> Values | None:
    """Of several tensors together, with the shape of the first."""
    if not tensors:
        return None
    flat = torch.cat([each.detach().cpu().reshape(-1).double() for each in tensors])
    finite = flat[torch.isfinite(flat)]
    low, high = (None, None) if not len(finite) else (float(finite.min()), float(finite.max()))
    return Values(tuple(tensors[0].shape), low, high, len(flat), len(finite))


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", function)).strip("_")


def _line(stack: Sequence[str]) -> str:
    """The innermost line of a stack, as traceback formats it, that is neither torch's nor trainctl's.

    The layers of ``trainctl.lessons.scratch`` are there to be read: their lines are told.
    """
    for entry in reversed(stack):
        found = _FRAME.search(entry)
        if found is None:
            continue
        file, number, code = found.groups()
        if file == _REPLAY:
            return ""  # whoever called it has no part in the step
        own = file.startswith(f"{_PACKAGE}{os.sep}") and not file.startswith(_SCRATCH)
        if not own and not file.startswith(_TORCH):
            return f"{file} line {number}: {code}"
    return ""
