"""The steps of fused optimizers on the CPU, without the Python around their kernels.

``Adam.step`` of torch 2 sorts its tensors by device and type, asks whether it is compiled or captured, and
opens a profiler's range at each step: for a small model as long as its kernel takes. Here the same kernel is
called with the same lists. Whatever is not plain goes to torch's own step: a closure, a profiler, a flag of a
gradient scaler, a learning rate that is a tensor, AMSGrad, another device, tensors of several types, and the
first step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

Call = Callable[[], None]
Prepare = Callable[[Any, dict[str, Any]], Call | None]
"""Given the optimizer and a parameter group, the call of the kernel; None where torch's step must do it."""


def quick_step(prepare: Prepare, plain: Callable[..., Any]) -> Callable[..., Any]:
    """A ``step`` that calls the kernels at once where nothing stands against it, else ``plain``, torch's."""
    hooked = Optimizer.profile_hook_step(plain)

    @functools.wraps(plain)
    def step(self: Any, *arguments: Any, **named: Any) -> Any:
        if arguments or named or torch._C._autograd._profiler_enabled():
            return hooked(self, *arguments, **named)
        given: tuple[tuple[Any, ...], dict[str, Any]] = (self,), {}
        for hook in (*_global_optimizer_pre_hooks.values(), *self._optimizer_step_pre_hooks.values()):
            given = hook(self, *given) or given
        if given == ((self,), {}):
            result = None if _is_done(self, prepare) else plain(self)
        else:
            result = plain(*given[0], **given[1])
        for hook in (*self._optimizer_step_post_hooks.values(), *_global_optimizer_post_hooks.values()):
            hook(self, *given)
        return result

    # Optimizer's constructor would wrap it in what is done here already.
    step.hooked = True  # type: ignore[attr-defined]
    return step


def _is_done(optimizer: Any, prepare: Prepare) -> bool:
    """Take the step, if all of it can be taken so; whether it was."""
    if "found_inf" in optimizer.__dict__ or "grad_scale" in optimizer.__dict__:
        return False
    with torch.no_grad():
        calls = []
        for group in optimizer.param_groups:
            call = prepare(optimizer, group)
            if call is None:
                return False
            calls.append(call)
        for call in calls:
            call()
    return True


def quick_zero_grad(plain: Callable[..., None]) -> Callable[..., None]:
    """``zero_grad`` without a profiler's range where no profiler runs."""

    @functools.wraps(plain)
    def zero_grad(self: Any, set_to_none: bool = True) -> None:
        if not set_to_none or torch._C._autograd._profiler_enabled():
            plain(self, set_to_none)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    return zero_grad


def _with_gradients(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]] | None:
    """Parameters and their gradients; None where they are not all on the CPU and of one type."""
    parameters, gradients = [], []
    for parameter in group["params"]:
        if (gradient := parameter.grad) is not None:
            parameters.append(parameter)
            gradients.append(gradient)
    kinds = {(parameter.is_cpu, parameter.dtype) for parameter in parameters}
    return (parameters, gradients) if len(kinds) == 1 and next(iter(kinds))[0] else None


def _is_number(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def prepare_adam(optimizer: Any, group: dict[str, Any]) -> Call | None:
    """Adam (Kingma and Ba, 2015), or AdamW (Loshchilov and Hutter, 2019) by ``decoupled_weight_decay``."""
    beta1, beta2 = group["betas"]
    if not group["fused"] or group["amsgrad"] or group["differentiable"] or group["capturable"]:
        return None
    found = _with_gradients(group)
    if found is None or not _is_number(group["lr"], beta1, beta2):
        return None
    parameters, gradients = found
    states = [optimizer.state[parameter] for parameter in parameters]
    if not all(states):
        return None
    averages = [state["exp_avg"] for state in states]
    squares = [state["exp_avg_sq"] for state in states]
    steps = [state["step"] for state in states]
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_

    def call() -> None:
        torch._foreach_add_(steps, 1)
        kernel(
            parameters,
            gradients,
            averages,
            squares,
            [],
            steps,
            amsgrad=False,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )

    return call


def prepare_sgd(optimizer: Any, group: dict[str, Any]) -> Call | None:
    """SGD, with momentum or without (Sutskever et al., 2013)."""
    # Until the first step torch has not looked at the parameters' types.
    if not group["fused"] or getattr(optimizer, "_need_device_dtype_check_for_fused", True):
        return None
    found = _with_gradients(group)
    if found is None or group["differentiable"] or not _is_number(group["lr"]):
        return None
    parameters, gradients = found
    buffers: list[Any] = []
    if group["momentum"] != 0:
        buffers = [optimizer.state[parameter].get("momentum_buffer") for parameter in parameters]
        if any(buffer is None for buffer in buffers):
            return None

    def call() -> None:
        torch._fused_sgd_(
            parameters,
            gradients,
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            is_first_step=False,
        )

    return call


PREPARE: dict[str, Prepare] = {"Adam": prepare_adam, "AdamW": prepare_adam, "SGD": prepare_sgd}
"""By the name of torch's optimizer."""
