"""A component of the config to an object that meets the protocols of the loop."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from torch import nn

from trainctl.config.settings import Component
from trainctl.data.inputs import Shape, are_positions, spread
from trainctl.errors import DISK_ERRORS, ConfigError, TrainctlError
from trainctl.registry import COMPONENTS, MODELS, TRACKERS, plugins
from trainctl.registry.protocols import Model, Optimizer, missing
from trainctl.training import parameters


def construct(component: Component, **supplied: Any) -> Any:
    """Call a component's constructor with its arguments and those of ``supplied`` that it takes.

    Raises ConfigError naming the component where that fails; an error of the disk stays an OSError.
    """
    registry = TRACKERS if component.group == TRACKERS.group else COMPONENTS[component.group]
    constructor = registry.load(component.name)
    wanted = registry.takes(component.name)
    given = {key: value for key, value in supplied.items() if key in wanted}
    try:
        return constructor(**component.arguments, **given)
    except Exception as error:
        of_disk = isinstance(error, OSError) and error.errno in DISK_ERRORS
        if of_disk or isinstance(error, TrainctlError):
            raise
        where = plugins.blamed(error)
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{component.group}={component.name} cannot be built: {type(error).__name__}: {reason}",
            f"{f'{where}; ' if where else ''}TRAINCTL_DEBUG=1 shows the traceback",
        ) from error


def build_model(model: Component, input_shape: Shape, output_size: int, *, pretrained: bool = True) -> Any:
    """The model for samples of ``input_shape`` and ``output_size`` outputs, its frozen parameters frozen.

    Without ``pretrained`` the weights that ``model.weights`` names are not read: others take their place.
    Of several inputs its ``forward`` gets each as an argument, its constructor their shapes in the same form.
    """
    if not pretrained and model.name not in MODELS.foreign() and "weights" in model.arguments:
        model = replace(model, arguments={**model.arguments, "weights": None})
    shape: Any = input_shape
    several = isinstance(input_shape, dict)
    if isinstance(input_shape, dict) and are_positions(input_shape):
        shape = tuple(input_shape.values())
    try:
        built = construct(model, input_shape=shape, output_size=output_size)
    except ConfigError as error:
        if not several:
            raise
        raise ConfigError(
            str(error), f"input_shape={shape}: choose a model whose forward takes each of these inputs"
        ) from error
    check_part(model, built, Model)
    if several:
        if not isinstance(built, nn.Module):
            raise ConfigError(f"model={model.name} takes one input, the samples have {len(input_shape)}")
        built.register_forward_pre_hook(spread, with_kwargs=True)
    parameters.freeze(model, built)
    return built


def check_part(component: Component, built: Any, protocol: type) -> None:
    """Raise ConfigError for an object that lacks a method of ``protocol``."""
    absent = missing(protocol, built)
    if absent:
        raise ConfigError(
            f"{component.group}={component.name} built a {type(built).__name__}, which has no"
            f" {', '.join(absent)}",
            f"see trainctl.registry.protocols.{protocol.__name__}; the classes of torch have it",
        )


def check_loop(component: Component, loop: Any, model: Any, criterion: Any, optimizer: Any) -> None:
    """Raise ConfigError where a loop cannot train these parts."""
    if not callable(getattr(loop, "step", None)):
        raise ConfigError(
            f"loop={component.name} built a {type(loop).__name__}, which has no step",
            "a loop has a step like trainctl.training.loop.train_step",
        )
    refusal = getattr(loop, "refusal", None)
    reason = refusal(model, criterion, optimizer) if refusal else None
    if reason:
        raise ConfigError(f"loop={component.name}: {reason}", "loop=optimizer serves every model")


def check_optimizer(component: Component, optimizer: Any) -> None:
    """Raise ConfigError for an optimizer that the training step cannot use."""
    check_part(component, optimizer, Optimizer)
    needed = [
        parameter.name
        for parameter in inspect.signature(optimizer.step).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if needed:
        raise ConfigError(
            f"optim={component.name}: its step needs {', '.join(needed)}, which the plain step does not give",
            "choose one that steps without a closure: trainctl ls optim",
        )
