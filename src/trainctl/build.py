"""From a checked config to a run: data, model, criterion, optimizer, scheduler, hooks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trainctl import parameters, plugins, runtime
from trainctl.augment import make_augment
from trainctl.compatibility import check_batch_of_one, check_fit
from trainctl.config import Component, Config
from trainctl.data import Data, check_targets, hold_out
from trainctl.errors import DISK_ERRORS, ConfigError, TrainctlError
from trainctl.evaluation import choose_metrics, choose_monitor
from trainctl.loop import Loader, Run, train_step
from trainctl.registry import COMPONENTS
from trainctl.steps.accumulated import accumulated_step


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
    lower_is_better: bool
    plateau: ReduceLROnPlateau | None
    notices: tuple[str, ...]

    @property
    def loaders(self) -> list[Loader]:
        return [loader for loader in (self.run.train, self.run.val, self.test) if loader is not None]

    @property
    def loading(self) -> str:
        """How batches of training data are made."""
        return str(getattr(self.run.train, "note", type(self.run.train).__name__))

    def while_waiting(self, look: Callable[[], None]) -> None:
        """Have ``look`` called about once a second while the loop waits for a batch; it may raise."""
        for loader in self.loaders:
            if (feed := getattr(loader, "feed", None)) is not None:
                feed.while_waiting = look

    def close(self) -> None:
        """End the processes that load data."""
        for loader in self.loaders:
            if (close := getattr(loader, "close", None)) is not None:
                close()


def build(config: Config) -> Built:
    """Build everything a config names and check that the parts fit, before the first step.

    Raises ConfigError where they do not: missing or malformed data, shapes, targets, device.
    """
    runtime.refuse_distributed()
    device = runtime.choose_device(config.device)
    runtime.set_deterministic(config.deterministic)
    data = build_data(config.dataset)
    data.transform.to(device)  # the statistics it was fitted with, if it has any
    metrics = choose_metrics(config.metrics, data)
    monitor, lower_is_better = choose_monitor(config.train.monitor, data, metrics)
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    window = batch_size * accumulate
    if len(data.train) < window:
        asked = f"train.batch_size={batch_size}" + (
            f" × train.accumulate={accumulate}" if accumulate > 1 else ""
        )
        raise ConfigError(
            f"{asked}: only {len(data.train)} training samples",
            f"use batch_size={len(data.train) // accumulate} or fewer, or hold out fewer with dataset.val",
        )
    augment = make_augment(config.dataset.common["augment"], data.train, config.seed)
    load = partial(construct, config.loader, transform=data.transform, device=device)
    train = load(split=data.train, batch_size=window, seed=config.seed, augment=augment)
    val, test = (
        load(split=split, batch_size=batch_size, seed=None, augment=None) if split else None
        for split in (data.val, data.test)
    )

    runtime.seed_everything(config.seed)
    model = build_model(config.model, data.input_shape, data.output_size)
    notices = [] if config.init_from is None else [parameters.copy_from(config.init_from, model)]
    model = model.to(device)
    criterion = construct(config.loss, class_counts=class_counts(data)).to(device)
    optimizer = construct(config.optim, parameters=parameters.groups(config, model))
    check_optimizer(config.optim.name, optimizer)
    precision = runtime.precision_context(config.train.precision, device)
    total_steps = count_steps(config, len(train))
    scheduler = construct(
        config.scheduler,
        optimizer=optimizer,
        total_steps=total_steps,
        steps_per_epoch=len(train),
        lower_is_better=lower_is_better,
    )
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        raise ConfigError(
            f"scheduler={config.scheduler.name} built a {type(scheduler).__name__}",
            "a scheduler is a torch.optim.lr_scheduler.LRScheduler, or None",
        )
    plateau = scheduler if isinstance(scheduler, ReduceLROnPlateau) else None
    if plateau is not None and val is None:
        raise ConfigError(
            f"scheduler={config.scheduler.name} needs validation data", "hold some out: dataset.val=0.1"
        )

    step = train_step if accumulate == 1 else partial(accumulated_step, batch_size=batch_size)
    batch = next(iter(train.batches()))
    check_fit(config, model, criterion, batch, data)
    check_batch_of_one(config, model, batch[0], len(data.train))
    threads, threads_note = runtime.choose_threads(
        config.threads,
        device,
        model,
        optimizer,
        lambda trial_model, trial_optimizer, inputs, targets: step(
            trial_model, criterion, trial_optimizer, inputs, targets, precision
        ),
        batch,
    )
    stepped = None if plateau is not None else scheduler
    run = Run(model, criterion, optimizer, stepped, train, val, metrics, precision, total_steps, step)
    return Built(
        run=run,
        data=data,
        device=device,
        threads=threads,
        threads_note=threads_note,
        test=test,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        monitor=monitor,
        lower_is_better=lower_is_better,
        plateau=plateau,
        notices=tuple(notices),
    )


def construct(component: Component, **supplied: Any) -> Any:
    """Call a component's constructor with its arguments and those of ``supplied`` that it asks for."""
    registry = COMPONENTS[component.group]
    constructor = registry.load(component.name)
    wanted = registry.takes(component.name)
    given = {key: value for key, value in supplied.items() if key in wanted}
    try:
        return constructor(**component.arguments, **given)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        raise _construction_error(component, error) from error
    except TrainctlError:
        raise
    except Exception as error:
        raise _construction_error(component, error) from error


def _construction_error(component: Component, error: Exception) -> ConfigError:
    where = plugins.blamed(error)
    reason = str(error).strip().partition("\n")[0]
    return ConfigError(
        f"{component.group}={component.name} cannot be built: {type(error).__name__}: {reason}",
        f"{where}; TRAINCTL_DEBUG=1 shows the traceback" if where else "TRAINCTL_DEBUG=1 shows the traceback",
    )


def check_optimizer(name: str, optimizer: Any) -> None:
    """Raise ConfigError for what the training step cannot use."""
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"optim={name} built a {type(optimizer).__name__}", "an optimizer is a torch.optim.Optimizer"
        )
    needed = [
        parameter.name
        for parameter in inspect.signature(optimizer.step).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if needed:
        raise ConfigError(
            f"optim={name}: its step needs {', '.join(needed)}, which the plain step does not give",
            "choose one that steps without a closure: trainctl ls optim",
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
    parameters.freeze(model, built)
    return built


def class_counts(data: Data) -> torch.Tensor | None:
    """Training samples a class, shape (classes,) int64; None for regression."""
    if data.task != "classification":
        return None
    return torch.bincount(data.train.targets, minlength=data.output_size)


def count_steps(config: Config, batches: int) -> int:
    """Steps of the whole run: epochs × batches, at most ``max_steps``."""
    train = config.train
    by_epochs = train.epochs * batches if train.epochs is not None else None
    return min(steps for steps in (by_epochs, train.max_steps) if steps is not None)
