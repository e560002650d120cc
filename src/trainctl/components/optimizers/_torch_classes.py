"""Optimizers of torch.optim that step without a closure and need no care of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from trainctl.registry import NonNegative, Positive, Probability
from trainctl.registry.torch_classes import TorchClass, TorchClasses


def _make(optimizer: type, member: TorchClass) -> Callable[..., Any]:
    def construct(parameters: Iterable[Any], **arguments: Any) -> Any:
        from trainctl.components.optimizers._lean import make

        return make(optimizer, parameters, **arguments)

    construct.__module__ = "trainctl.components.optimizers._torch_classes"
    return construct


TORCH_CLASSES = TorchClasses(
    members={
        "adadelta": TorchClass(
            "optim.adadelta", "Adadelta", "Adadelta: step sizes from running means (Zeiler, 2012)"
        ),
        "adafactor": TorchClass(
            "optim._adafactor",
            "Adafactor",
            "Adafactor: Adam with factored, smaller state (Shazeer and Stern, 2018)",
        ),
        "adagrad": TorchClass(
            "optim.adagrad", "Adagrad", "Adagrad: steps shrink with the summed squares (Duchi, 2011)"
        ),
        "adamax": TorchClass(
            "optim.adamax", "Adamax", "Adamax: Adam with the infinity norm (Kingma and Ba, 2015)"
        ),
        "asgd": TorchClass(
            "optim.asgd", "ASGD", "Averaged stochastic gradient descent (Polyak and Juditsky, 1992)"
        ),
        "nadam": TorchClass("optim.nadam", "NAdam", "NAdam: Adam with Nesterov's momentum (Dozat, 2016)"),
        "radam": TorchClass("optim.radam", "RAdam", "RAdam: Adam with a rectified start (Liu et al., 2020)"),
        "rmsprop": TorchClass(
            "optim.rmsprop", "RMSprop", "RMSprop: steps divided by a running norm (Hinton, 2012)"
        ),
        "rprop": TorchClass(
            "optim.rprop", "Rprop", "Rprop: signs of the gradient only (Riedmiller and Braun, 1993)"
        ),
    },
    hidden=("self", "params", "foreach", "maximize", "capturable", "differentiable", "fused"),
    types={
        "lr": Positive,
        "weight_decay": NonNegative,
        "momentum": Probability,
        "alpha": Probability,
        "betas": tuple[Probability, Probability],
    },
    make=_make,
    refused={
        "lbfgs": "it evaluates the loss several times a step through a closure, which the plain step has not",
        "sparse_adam": "it takes sparse gradients only, and no model here gives them",
    },
)
