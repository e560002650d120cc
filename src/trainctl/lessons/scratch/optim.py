"""Optimizers: they update parameters from their gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainctl.lessons.scratch.hooks import Hook, Hooks, RemovableHandle


class Optimizer(ABC):
    """Parameters in groups, each group with its own settings, and a state for each parameter.

    A subclass defines ``update``, which changes one parameter.

    Args:
        parameters: tensors, or dictionaries ``{"params": tensors, …}`` whose other keys are settings of
            these tensors that replace the defaults.
        defaults: the settings, by name.

    Attributes:
        param_groups: dictionaries with ``params``, a list of tensors, and every setting.
        state: the state that ``update`` keeps, by parameter.
        defaults: the settings of groups without their own.

    Raises ValueError if there is no parameter, or one comes twice.
    """

    def __init__(self, parameters: Iterable[Any], defaults: Mapping[str, Any]) -> None:
        self.defaults = dict(defaults)
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        self._step_pre_hooks = Hooks()
        given = list(parameters)
        if not given:
            raise ValueError("there are no parameters to optimize")
        for group in given if isinstance(given[0], Mapping) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add tensors with their own settings. Raises ValueError for a tensor that was added before."""
        params = group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        seen = {id(parameter) for parameter in self._all_parameters()}
        if len(seen | {id(parameter) for parameter in params}) < len(seen) + len(params):
            raise ValueError("a parameter comes twice: it would be updated twice a step")
        self.param_groups.append({**self.defaults, **group, "params": params})

    def zero_grad(self) -> None:
        """Drop all gradients: ``backward`` would add to them."""
        for parameter in self._all_parameters():
            parameter.grad = None

    def step(self) -> None:
        """Call the hooks, which may change gradients, then update every parameter that has a gradient."""
        for hook in self._step_pre_hooks:
            hook(self, (), {})
        # The update is not part of the function that is differentiated.
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self.update(parameter, parameter.grad, group)

    @abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        """Change ``parameter`` in place; ``group`` holds the settings. Gradients are switched off."""

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Have ``hook(optimizer, args, kwargs)`` called before each step."""
        return self._step_pre_hooks.add(hook)

    def state_dict(self) -> dict[str, Any]:
        """State and settings, with parameters as numbers in the order of the groups: torch's format.

        It shares the optimizer's state, which the next step changes: copy it to keep it.
        """
        numbers = {parameter: number for number, parameter in enumerate(self._all_parameters())}
        return {
            "state": {numbers[parameter]: state for parameter, state in self.state.items()},
            "param_groups": [
                {**group, "params": [numbers[parameter] for parameter in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a ``state_dict``, whose tensors are copied to the parameters' devices.

        Groups and parameters are matched by their order. Raises ValueError if the groups' sizes differ.
        """
        groups = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in self.param_groups]
        if (stored := [len(group["params"]) for group in groups]) != sizes:
            raise ValueError(f"the state has groups of {stored} parameters, this optimizer groups of {sizes}")
        of_number: dict[Any, Tensor] = {}
        for own, group in zip(self.param_groups, groups, strict=True):
            of_number.update(zip(group["params"], own["params"], strict=True))
            own.update({key: value for key, value in group.items() if key != "params"})
        self.state = {
            of_number[number]: {key: _copied(value, of_number[number].device) for key, value in state.items()}
            for number, state in state_dict["state"].items()
        }

    def _all_parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


def _copied(value: Any, device: torch.device) -> Any:
    return value.detach().to(device, copy=True) if isinstance(value, Tensor) else value


class SGD(Optimizer):
    """Stochastic gradient descent: ``v = momentum * v + grad; p -= lr * v``, v starting as the gradient.

    Without momentum v is the gradient. Sutskever et al., On the importance of initialization and momentum in
    deep learning (2013), in torch.optim.SGD's form, which has lr outside of v.

    Args:
        lr: learning rate.
        momentum: share of the last step's direction that is kept.
    """

    def __init__(self, parameters: Iterable[Any], lr: float = 0.1, momentum: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    def update(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        direction = gradient
        if group["momentum"]:
            state = self.state.setdefault(parameter, {})
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = gradient.clone()
            else:
                state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
            direction = state["momentum_buffer"]
        parameter.add_(direction, alpha=-group["lr"])


class Adam(Optimizer):
    """Adam: Kingma and Ba, Adam: A Method for Stochastic Optimization (2015), algorithm 1.

    With m and s the running means of the gradient and of its square, t the number of the step:

        m = beta1 * m + (1 - beta1) * grad
        s = beta2 * s + (1 - beta2) * grad²
        p -= lr * m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + eps)

    Both means start at 0 and so are too small at first; the divisions by 1 - beta^t put that right.

    Args:
        lr: learning rate.
        betas: decay of the two running means.
        eps: added to the denominator.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    def update(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state = self.state.setdefault(parameter, {})
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        # torch keeps the number in a tensor, which a loaded state may hold.
        state["step"] = step = int(state["step"]) + 1
        mean, mean_square = state["exp_avg"], state["exp_avg_sq"]
        # Operations and their order are torch.optim.Adam's, so that results are, too. lerp_ is
        # mean + (1 - beta1) * (gradient - mean), addcmul_ adds value * gradient * gradient.
        mean.lerp_(gradient, 1 - beta1)
        mean_square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (mean_square.sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
        # Adds value * mean / denominator.
        parameter.addcdiv_(mean, denominator, value=-(group["lr"] / (1 - beta1**step)))
