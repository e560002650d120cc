"""torch's optimizers without the import of its compiler, and with less Python around their fused kernels.

The methods of an optimizer are decorated for ``torch.compile``, and the decorators import ``torch._dynamo``
at the first call, which takes seconds. :func:`lean` makes a subclass with the undecorated methods. On the
CPU, SGD, Adam and AdamW then call their fused kernel directly, with the same tensors: for a small model,
torch's code around the kernel takes longer than the kernel, a tenth of a training step. Hooks, schedulers,
``state_dict`` and every bit of the results stay the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

Calls = list[Callable[[], Any]]
_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")
_stock: ContextVar[bool] = ContextVar("stock", default=False)


@contextmanager
def stock_classes(wanted: bool = True) -> Iterator[None]:
    """Inside, :func:`lean` returns the class unchanged: ``compile`` imports the compiler anyway."""
    token = _stock.set(wanted)
    try:
        yield
    finally:
        _stock.reset(token)


def make(optimizer: type[Optimizer], parameters: Iterable[Any], **arguments: Any) -> Optimizer:
    """Construct ``optimizer``, lean; ``fused=None`` is fused where torch has a kernel for every parameter."""
    parameters = list(parameters)
    if optimizer in (SGD, Adam, AdamW) and arguments.get("fused") is None:
        groups = [item["params"] if isinstance(item, Mapping) else [item] for item in parameters]
        arguments["fused"] = all(
            tensor.is_floating_point()
            and tensor.device.type in ("cpu", "cuda", "mps")
            and (optimizer is not SGD or not hasattr(tensor, "to_local"))  # not on parts of parameters
            for group in groups
            for tensor in group
        )
    return lean(optimizer)(parameters, **arguments)


def lean(optimizer: type[Optimizer]) -> type[Optimizer]:
    """A subclass of the same name, with undecorated methods and, where possible, direct kernel calls."""
    if _stock.get():
        return optimizer
    members = {name: getattr(optimizer, name) for name in _METHODS}
    methods = {name: inspect.unwrap(it) for name, it in members.items() if hasattr(it, "__wrapped__")}
    if "step" in methods:
        methods["step"] = torch.no_grad()(methods["step"])
    if optimizer in (SGD, Adam, AdamW):
        methods["step"] = _direct_step(methods["step"], _sgd if optimizer is SGD else _adam)
    if optimizer.zero_grad is Optimizer.zero_grad and "zero_grad" in methods:
        methods["zero_grad"] = _direct_zero_grad(methods["zero_grad"])
    return type(optimizer.__name__, (optimizer,), {**methods, "__module__": optimizer.__module__})


def _direct_zero_grad(plain: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(plain)
    def zero_grad(self: Any, set_to_none: bool = True) -> None:
        if not set_to_none or torch._C._autograd._profiler_enabled():
            plain(self, set_to_none)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    return zero_grad


def _direct_step(plain: Callable[..., Any], calls_of: Callable[[Any, Any], Calls]) -> Callable[..., Any]:
    profiled = Optimizer.profile_hook_step(plain)

    @functools.wraps(plain)
    def step(self: Any, *arguments: Any, **named: Any) -> Any:
        if arguments or named or torch._C._autograd._profiler_enabled():
            return profiled(self, *arguments, **named)
        given: Any = ((self,), {})
        for hook in (*_global_optimizer_pre_hooks.values(), *self._optimizer_step_pre_hooks.values()):
            given = hook(self, *given) or given
        is_done = given == ((self,), {}) and _call_kernels(self, calls_of)
        result = None if is_done else plain(*given[0], **given[1])
        for hook in (*self._optimizer_step_post_hooks.values(), *_global_optimizer_post_hooks.values()):
            hook(self, *given)
        return result

    step.hooked = True  # type: ignore[attr-defined]  # or Optimizer.__init__ would add the hooks again
    return step


def _call_kernels(optimizer: Any, calls_of: Callable[[Any, Any], Calls]) -> bool:
    """Take the step and return True; change nothing and return False when only torch's ``step`` can."""
    is_scaled = "found_inf" in optimizer.__dict__ or "grad_scale" in optimizer.__dict__
    found = [[] if is_scaled else calls_of(optimizer, group) for group in optimizer.param_groups]
    if not all(found):
        return False
    with torch.no_grad():
        for calls in found:
            for call in calls:
                call()
    return True


def _with_gradients(group: dict[str, Any], *numbers: Any) -> list[Tensor]:
    """The parameters to step; none when the group is unusual: not fused, not on the CPU, of several types."""
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    kinds = {parameter.dtype if parameter.is_cpu else None for parameter in parameters}
    unusual = any(group.get(name) for name in ("amsgrad", "capturable", "differentiable"))
    unusual = unusual or any(isinstance(number, Tensor) for number in numbers)
    return parameters if group["fused"] and not unusual and len(kinds) == 1 and None not in kinds else []


def _adam(optimizer: Any, group: dict[str, Any]) -> Calls:
    parameters = _with_gradients(group, group["lr"], *group["betas"])
    states = [optimizer.state.get(parameter) for parameter in parameters]
    if not parameters or not all(states):  # torch makes the state at the first step
        return []
    steps, means, squares = ([state[key] for state in states] for key in ("step", "exp_avg", "exp_avg_sq"))
    gradients = [parameter.grad for parameter in parameters]
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    settings = {key: group[key] for key in ("lr", "weight_decay", "eps", "maximize", "amsgrad")}
    settings["beta1"], settings["beta2"] = group["betas"]
    step = partial(kernel, parameters, gradients, means, squares, [], steps, **settings)
    return [partial(torch._foreach_add_, steps, 1), step]


def _sgd(optimizer: Any, group: dict[str, Any]) -> Calls:
    parameters = _with_gradients(group, group["lr"])
    buffers = [optimizer.state.get(parameter, {}).get("momentum_buffer") for parameter in parameters]
    buffers = buffers if group["momentum"] else []
    # torch checks the parameters' types, and makes the momentum buffers, at the first step.
    unchecked = getattr(optimizer, "_need_device_dtype_check_for_fused", True)
    if not parameters or unchecked or any(buffer is None for buffer in buffers):
        return []
    gradients = [parameter.grad for parameter in parameters]
    names = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")
    settings = {name: group[name] for name in names}
    return [partial(torch._fused_sgd_, parameters, gradients, buffers, is_first_step=False, **settings)]
