"""From a checked config to a run: data, model, criterion, optimizer, scheduler, hooks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from trainctl import runtime
from trainctl.config import Component, Config
from trainctl.data import Data, check_targets, hold_out
from trainctl.errors import ConfigError
from trainctl.loaders.resident import ResidentLoader
from trainctl.loop import Loader, Run, train_step
from trainctl.registry import COMPONENTS, METRICS

_METRICS = {"classification": ("accuracy",), "regression": ("mse", "mae", "r2")}


@dataclass(frozen=True)
class Built:
    """A run that is ready to train, and what people are told about it."""

    run: Run
    data: Data
    device: torch.device
    threads: int
    threads_note: str
    test: Loader | None
    parameters: int
    trainable: int
    monitor: str


def build(config: Config) -> Built:
    """Build everything a config names and check that the parts fit, before the first step.

    Raises ConfigError where they do not: missing or malformed data, shapes, targets, device.
    """
    runtime.refuse_distributed()
    device = runtime.choose_device(config.device)
    runtime.set_deterministic(config.deterministic)
    data = build_data(config.dataset)
    batch_size = config.train.batch_size
    if len(data.train) < batch_size:
        raise ConfigError(
            f"train.batch_size={batch_size}: only {len(data.train)} training samples",
            f"use batch_size={len(data.train)} or fewer, or hold out fewer with dataset.val",
        )
    train = ResidentLoader(data.train, data.transform, batch_size, device, config.seed)
    val = ResidentLoader(data.val, data.transform, batch_size, device, None) if data.val else None
    test = ResidentLoader(data.test, data.transform, batch_size, device, None) if data.test else None

    runtime.seed_everything(config.seed)
    model = build_model(config.model, data.input_shape, data.output_size).to(device)
    criterion = construct(config.loss).to(device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigError(f"model={config.model.name} has no parameters to train")
    optimizer = construct(config.optim, parameters=parameters)
    precision = runtime.precision_context(config.train.precision, device)
    total_steps = count_steps(config, len(train))
    scheduler = construct(config.scheduler, optimizer=optimizer, total_steps=total_steps)

    batch = next(iter(train.batches()))
    check_fit(config, model, criterion, batch, data)
    threads, threads_note = runtime.choose_threads(
        config.threads,
        device,
        model,
        optimizer,
        lambda trial_model, trial_optimizer, inputs, targets: train_step(
            trial_model, criterion, trial_optimizer, inputs, targets, precision
        ),
        batch,
    )
    metrics = {name: METRICS.load(name) for name in _METRICS[data.task]}
    run = Run(model, criterion, optimizer, scheduler, train, val, metrics, precision, total_steps)
    return Built(
        run=run,
        data=data,
        device=device,
        threads=threads,
        threads_note=threads_note,
        test=test,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in parameters),
        monitor=choose_monitor(config.train.monitor, data, metrics),
    )


def construct(component: Component, **supplied: Any) -> Any:
    """Call a component's constructor with its arguments and those of ``supplied`` that it asks for."""
    registry = COMPONENTS[component.group]
    constructor = registry.load(component.name)
    wanted = registry.takes(component.name)
    return constructor(
        **component.arguments, **{key: value for key, value in supplied.items() if key in wanted}
    )


def build_data(dataset: Component) -> Data:
    """The dataset's splits, validation held out, targets checked."""
    data = construct(dataset)
    if not isinstance(data, Data):
        raise ConfigError(
            f"dataset={dataset.name} returned {type(data).__name__}",
            "a dataset builder returns a trainctl.data.Data",
        )
    check_targets(data)
    if data.val is None:
        data = hold_out(data, dataset.common["val"], dataset.common["split_seed"])
    return data if data.fit is None else replace(data, transform=data.fit(data.train))


def build_model(model: Component, input_shape: tuple[int, ...], output_size: int) -> nn.Module:
    """The model for samples of ``input_shape`` and ``output_size`` outputs."""
    built = construct(model, input_shape=input_shape, output_size=output_size)
    if not isinstance(built, nn.Module):
        raise ConfigError(
            f"model={model.name} built a {type(built).__name__}", "a model is a torch.nn.Module"
        )
    return built


def count_steps(config: Config, batches: int) -> int:
    """Steps of the whole run: epochs × batches, at most ``max_steps``."""
    train = config.train
    by_epochs = train.epochs * batches if train.epochs is not None else None
    return min(steps for steps in (by_epochs, train.max_steps) if steps is not None)


def choose_monitor(monitor: str, data: Data, metrics: Mapping[str, Any]) -> str:
    """The value that decides what is best. Raises ConfigError for one that this task does not compute."""
    if monitor == "auto":
        return "val/accuracy" if data.task == "classification" else "val/loss"
    known = [f"val/{name}" for name in ("loss", *metrics)]
    if monitor not in known:
        raise ConfigError(
            f"train.monitor={monitor}: not computed for {data.task}", f"there are: {', '.join(known)}"
        )
    return monitor


def check_fit(config: Config, model: nn.Module, criterion: nn.Module, batch: Any, data: Data) -> None:
    """Run two samples through model and loss, and refuse what does not fit with both shapes named.

    Without the check a loss of (N,) outputs against (N, 1) targets broadcasts to (N, N) and trains on.
    """
    inputs, targets = (tensor[:2] for tensor in batch)
    shape = tuple(data.input_shape)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"model={config.model.name} does not take inputs of shape (N, {_listed(shape)}): {reason}",
            f"dataset={config.dataset.name} gives that shape; choose a model for it",
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(outputs, torch.Tensor):
        raise ConfigError(f"model={config.model.name} returns {type(outputs).__name__}, not one tensor")
    kind = getattr(criterion, "target", None)
    _check_target_kind(config, kind, data, outputs, targets)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            loss = criterion(outputs, targets)
    except (RuntimeError, ValueError, IndexError, TypeError, UserWarning) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{_mismatch(config, outputs, targets)}: {reason}") from error
    if loss.dim() != 0:
        raise ConfigError(
            f"loss={config.loss.name} gives a value of shape {tuple(loss.shape)}, not one number",
            "a loss averages over the batch",
        )


def _check_target_kind(config: Config, kind: str | None, data: Data, outputs: Any, targets: Any) -> None:
    if kind == "class" and data.task != "classification":
        raise ConfigError(_mismatch(config, outputs, targets), "the targets are values: use loss=mse")
    if kind == "value" and data.task == "classification":
        raise ConfigError(
            _mismatch(config, outputs, targets), "the targets are class numbers: use loss=cross_entropy"
        )
    fits = outputs.shape == targets.shape if kind == "value" else True
    if kind == "class":
        fits = outputs.dim() >= 2 and outputs.shape[1] == data.output_size
    if not fits:
        wanted = (
            f"(N, {data.output_size})" if kind == "class" else f"(N, {_listed(tuple(targets.shape[1:]))})"
        )
        raise ConfigError(
            _mismatch(config, outputs, targets),
            f"model={config.model.name} must give outputs of shape {wanted}",
        )


def _mismatch(config: Config, outputs: Any, targets: Any) -> str:
    return (
        f"loss={config.loss.name} does not fit outputs of shape (N{_rest(outputs)}) {_type(outputs)}"
        f" and targets of shape (N{_rest(targets)}) {_type(targets)}"
    )


def _rest(tensor: torch.Tensor) -> str:
    shape = tuple(tensor.shape[1:])
    return f", {_listed(shape)}" if shape else ","


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
