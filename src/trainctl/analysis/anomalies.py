"""Where a training step first computes a value that is not finite: in which module, forward or backward.

torch's anomaly mode keeps the forward line of each node of the autograd graph. Its own check finds NaN only;
hooks on the nodes find infinite gradients, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainctl.analysis.values import Values, tensors_in, values_of
from trainctl.registry.protocols import named_modules

_TORCH, _PACKAGE = Path(torch.__file__).parent, Path(__file__).parents[1]
_FRAME = re.compile(r'File "(.*)", line (\d+), in .*\n\s*(.*)')


@dataclass(eq=False)
class Call:
    """One call of a module; the step's inputs and targets are kept as one, too.

    Attributes:
        name: dotted; ``model`` and ``loss`` for the outermost modules.
        kind: the module's class.
        outputs: empty where it returned no tensor.
        is_loss: whether the module is the loss function or inside it.
        makes_bad: whether the outputs are not finite although the inputs are.
        gradient: of the outputs.
        nodes: of the autograd graph that the module's own code made, the last one first.
    """

    name: str
    kind: str
    outputs: Values
    is_loss: bool = False
    makes_bad: bool = False
    gradient: Values = field(default_factory=Values)
    nodes: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


class StepEndedError(Exception):
    """Leaves the step after a bad value, or before the optimizer changes the parameters."""


class Watch:
    """Records a training step up to the first micro-batch with a bad value.

    Attributes:
        batch, loss, calls: 1-based index of that micro-batch or the last, its loss, its calls as they ended.
        bad_parameters: names of those that are bad before the step.
        bad_gradients: names of parameters, in the order of the backward pass.
        bad_node: that computed the first bad gradient, its call, and whether it received a finite one.
    """

    def __init__(self, model: Any, criterion: Any) -> None:
        self.model, self.criterion = model, criterion
        self.batch, self.loss, self._is_between = 0, math.nan, True
        self.calls: list[Call] = []
        self.bad_parameters = [name for name, each in model.named_parameters() if not all_finite(each)]
        self.bad_gradients: list[str] = []
        self.bad_node: tuple[Any, Call, bool] | None = None
        self._claimed: set[Any] = set()

    @contextmanager
    def attached(self, optimizer: Any) -> Iterator[None]:
        """Watch the step taken inside; it ends before the optimizer's update."""
        handles = [optimizer.register_step_pre_hook(self._before_update)]
        hooks: dict[Any, Any] = {}
        for is_loss, prefix, outermost in ((False, "", self.model), (True, "loss", self.criterion)):
            for name, module in named_modules(outermost, prefix):
                hooks.setdefault(module, partial(self._after_forward, name or "model", is_loss))
        handles += [module.register_forward_hook(hook) for module, hook in hooks.items()]
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                hook = partial(self._after_accumulation, name)
                handles.append(parameter.register_post_accumulate_grad_hook(hook))
        try:
            with suppress(StepEndedError), torch.autograd.set_detect_anomaly(True, check_nan=False):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _after_forward(self, name: str, is_loss: bool, module: Any, inputs: Any, outputs: Any) -> None:
        if self._is_between:
            if self.bad_gradients:
                raise StepEndedError
            self.batch, self.calls, self._is_between = self.batch + 1, [], False
        tensors = list(tensors_in(outputs))
        makes_bad = all_finite(inputs) and not all_finite(tensors)
        call = Call(name, type(module).__name__, values_of(tensors), is_loss, makes_bad)
        self.calls.append(call)
        self._claim_nodes(call, inputs, tensors)
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: setattr(call, "gradient", values_of(gradient)))  # type: ignore[no-untyped-call]
        if module is self.criterion:
            self.loss, self._is_between = float(outputs.detach()), True
            if not math.isfinite(self.loss):
                raise StepEndedError

    def _claim_nodes(self, call: Call, inputs: Any, outputs: list[Tensor]) -> None:
        """The nodes between inputs and outputs that no inner module has made are of ``call``."""
        seen: set[Any] = {None, *(each.grad_fn for each in tensors_in(inputs))}
        pending: list[Any] = [each.grad_fn for each in outputs]
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                pending += [each for each, _ in node.next_functions]
                if node not in self._claimed:
                    self._claimed.add(node)
                    call.nodes.append(node)
                    node.register_hook(partial(self._after_node, node, call))

    def _after_node(self, node: Any, call: Call, computed: Any, received: Any) -> None:
        if self.bad_node is None and not all_finite(computed):
            self.bad_node = node, call, all_finite(received)

    def _after_accumulation(self, name: str, parameter: Tensor) -> None:
        if name not in self.bad_gradients and not all_finite(parameter.grad):
            self.bad_gradients.append(name)

    def _before_update(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        raise StepEndedError


def all_finite(values: Any) -> bool:
    """Whether all tensors in ``values`` are finite."""
    dense = (each.to_dense() if each.is_sparse else each for each in tensors_in(values))
    return all(bool(torch.isfinite(each).all()) for each in dense)


def forward_line(node: Any) -> str:
    """File, number and text of the line that made a node of the graph; "" where it is trainctl's own.

    Those of ``trainctl.lessons.scratch`` are shown: it is written to be read.
    """
    for entry in reversed(node.metadata.get("traceback_", ())):
        found = _FRAME.search(entry)
        if found is not None and _TORCH not in Path(found[1]).parents:
            is_hidden = _PACKAGE in Path(found[1]).parents and "scratch" not in Path(found[1]).parts
            return "" if is_hidden else f"{found[1]} line {found[2]}: {found[3]}"
    return ""
