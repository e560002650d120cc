"""From a checked config to a run: data, model, criterion, optimizer, scheduler, hooks."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trainctl.components.optimizers._lean import stock_classes
from trainctl.components.tasks._base import check_targets, task_of
from trainctl.config.settings import Component, Config
from trainctl.data import preprocessing as preparing
from trainctl.data.augmentation import make_augment
from trainctl.data.sampler import epoch_order
from trainctl.data.types import Data, hold_out, limited
from trainctl.errors import DISK_ERRORS, ConfigError, TrainctlError
from trainctl.registry import COMPONENTS, plugins
from trainctl.registry.protocols import Criterion, Loader, Model, Optimizer, missing
from trainctl.training import overfitting, parameters, runtime
from trainctl.training.checks import check_batch_of_one, check_fit
from trainctl.training.evaluation import choose_metrics, choose_monitor
from trainctl.training.hooks.base import Hook
from trainctl.training.hooks.best import Best
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.hooks.ema import Ema
from trainctl.training.hooks.guard import Guard
from trainctl.training.hooks.overfit import Overfit
from trainctl.training.hooks.plateau import Plateau
from trainctl.training.loop import Run, fit


@dataclass(frozen=True)
class Built:
    """A run that is ready to train, and what people are told about it."""

    run: Run
    data: Data
    prepared: dict[str, Any]
    device: torch.device
    threads: int
    threads_note: str
    test: Loader | None
    parameters: int
    trainable: int
    monitor: str
    lower_is_better: bool
    fit: Callable[[Run], None]
    seed: int
    resumes: bool
    notices: tuple[str, ...]

    @property
    def loaders(self) -> list[Loader]:
        return [loader for loader in (self.run.train, self.run.val, self.test) if loader is not None]

    @property
    def loading(self) -> str:
        """How batches of training data are made."""
        return str(getattr(self.run.train, "note", type(self.run.train).__name__))

    def order_digest(self, epoch: int) -> str:
        """SHA-256 of the training targets in the order of ``epoch``: another one is of other data."""
        return order_digest(self.data, self.seed, epoch)

    @property
    def described(self) -> dict[str, Any]:
        """What a reader of a checkpoint needs to build the model again, to give it inputs as in training, and
        to name its outputs."""
        data = self.data
        counts = class_counts(data)
        return {
            "name": data.name,
            "task": data.task,
            "input_shape": list(data.input_shape),
            "output_size": data.output_size,
            "classes": list(data.classes),
            "class_counts": None if counts is None else counts.tolist(),
            **self.prepared,
        }

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


def build(config: Config, data: Data | None = None) -> Built:
    """Build everything a config names and check that the parts fit, before the first step.

    ``data`` is that of another run with the same dataset, which is not read again.

    Raises ConfigError where they do not: missing or malformed data, shapes, targets, device.
    """
    runtime.refuse_distributed()
    overfit = config.train.overfit_batches
    if overfit is not None:
        config = overfitting.simplified(config)
    device = runtime.choose_device(config.device)
    runtime.set_deterministic(config.deterministic)
    runtime.set_matmul_precision(config.train.matmul)
    data = build_data(config.dataset) if data is None else data
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
    seed: int | None = config.seed
    train_split, val_split, test_split = data.train, data.val, data.test
    if overfit is not None:
        train_split = overfitting.first_samples(train_split, overfit * window, config.seed)
        val_split = test_split = seed = None
    train = load(split=train_split, batch_size=window, seed=seed, augment=augment)
    val, test = (
        load(split=split, batch_size=batch_size, seed=None, augment=None) if split else None
        for split in (val_split, test_split)
    )

    runtime.seed_everything(config.seed)
    model = build_model(config.model, data.input_shape, data.output_size)
    notices = [] if config.init_from is None else [parameters.copy_from(config.init_from, model)]
    if overfit is not None:
        overfitting.without_dropout(model)
        notices.append(overfitting.notice(len(train), len(train_split)))
    model = model.to(device)
    criterion = construct(config.loss, class_counts=class_counts(data))
    _check_part(config.loss, criterion, Criterion)
    criterion = criterion.to(device)
    with stock_classes(config.compile is not False):
        optimizer = construct(config.optim, parameters=parameters.groups(config, model))
    check_optimizer(config.optim, optimizer)
    loop = construct(config.loop, config=config)
    check_loop(config.loop, loop, model, criterion, optimizer)
    if not getattr(loop, "resumes", True):
        notices.append(f"loop={config.loop.name} does not resume: an interrupted run starts again")
    precision = runtime.precision_context(config.train.precision, device)
    total_steps = count_steps(config, len(train))
    if config.scheduler.name != "none" and not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"scheduler={config.scheduler.name} needs an optimizer of torch, not optim={config.optim.name}",
            "use scheduler=none, or optim=sgd, adam …",
        )
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

    batch = next(iter(train.batches()))
    check_fit(config, model, criterion, batch, data)
    check_batch_of_one(config, model, batch[0], len(train_split))
    threads, threads_note = runtime.choose_threads(
        config.threads,
        device,
        model,
        optimizer,
        lambda trial_model, trial_optimizer, inputs, targets: loop.step(
            trial_model, criterion, trial_optimizer, inputs, targets, precision
        ),
        batch,
    )
    stepped = None if plateau is not None else scheduler
    run = Run(model, criterion, optimizer, stepped, train, val, metrics, precision, total_steps, loop.step)
    compiled: list[Hook] = []
    if (mode := config.compile) is not False:
        from trainctl.training import compile as compiling

        compiling.refuse(config, model)
        compiled = [compiling.Compiled(model, "default" if mode is True else mode, batch_size)]
    captured: list[Hook] = []
    if config.train.capture is True or (config.train.capture == "auto" and device.type == "cuda"):
        from trainctl.training import cuda_graph as capturing

        capturing.refuse(config, device, optimizer)
        reason = capturing.obstacle(config, device, optimizer)
        captured = [capturing.Capture(config.train.capture, reason, window, device)]
    averaging = []
    if config.train.ema is not None:
        run.averaged = copy.deepcopy(model)
        averaging = [Ema(model, run.averaged, config.train.ema)]
    guard = config.guard
    run.hooks = [
        *compiled,
        *captured,  # before the guard, which watches whatever step it finds
        *(
            [Guard(loss=guard.loss, gradients=guard.gradients, skip=guard.skip)]
            if guard.loss or guard.gradients
            else []
        ),
        *([ClipNorm(config.train.clip_norm)] if config.train.clip_norm is not None else []),
        *([Plateau(plateau, monitor)] if plateau is not None else []),
        *averaging,
        *([Overfit(len(train))] if overfit is not None else []),
        Best(monitor, config.train.patience, config.train.min_delta, lower_is_better=lower_is_better),
    ]
    return Built(
        run=run,
        data=data,
        prepared=preparing.describe(data),
        device=device,
        threads=threads,
        threads_note=threads_note,
        test=test,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        monitor=monitor,
        lower_is_better=lower_is_better,
        fit=getattr(loop, "fit", fit),
        seed=config.seed,
        resumes=getattr(loop, "resumes", True),
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


def _check_part(component: Component, built: Any, protocol: type) -> None:
    """Raise ConfigError for what lacks something that the standard loop needs."""
    absent = missing(protocol, built)
    if absent:
        what = f"{component.group}={component.name} built a {type(built).__name__}"
        raise ConfigError(
            f"{what}, which has no {', '.join(absent)}",
            f"see trainctl.registry.protocols.{protocol.__name__}; the classes of torch have it",
        )


def check_loop(component: Component, loop: Any, model: Any, criterion: Any, optimizer: Any) -> None:
    """Raise ConfigError where a loop cannot train these parts."""
    if not callable(getattr(loop, "step", None)):
        raise ConfigError(
            f"loop={component.name} built a {type(loop).__name__}, which has no step",
            "a loop has a step as trainctl.training.loop.train_step",
        )
    refusal = getattr(loop, "refusal", None)
    reason = refusal(model, criterion, optimizer) if refusal else None
    if reason:
        raise ConfigError(f"loop={component.name}: {reason}", "loop=optimizer serves every model")


def check_optimizer(component: Component, optimizer: Any) -> None:
    """Raise ConfigError for what the training step cannot use."""
    _check_part(component, optimizer, Optimizer)
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


def build_data(dataset: Component, like: Mapping[str, Any] | None = None) -> Data:
    """The dataset's splits, validation held out, targets checked.

    ``like`` is how the data of a trained model was read, where this is to be read the same way.
    """
    data = construct(dataset, **({} if like is None else {"like": like}))
    if not isinstance(data, Data):
        raise ConfigError(
            f"dataset={dataset.name} returned {type(data).__name__}",
            "a dataset builder returns a trainctl.data.Data",
        )
    check_targets(data)
    if data.val is None:
        data = hold_out(data, dataset.common["val"], dataset.common["split_seed"])
    data = limited(data, dataset.common.get("limit"))
    return data if data.fit is None else replace(data, transform=data.fit(data.train))


def build_model(model: Component, input_shape: tuple[int, ...], output_size: int) -> Any:
    """The model for samples of ``input_shape`` and ``output_size`` outputs."""
    built = construct(model, input_shape=input_shape, output_size=output_size)
    _check_part(model, built, Model)
    parameters.freeze(model, built)
    return built


def order_digest(data: Data, seed: int, epoch: int) -> str:
    """SHA-256 of the training targets in the order that ``seed`` gives them in ``epoch``."""
    order = epoch_order(len(data.train), seed, epoch)
    targets = data.train.targets.cpu()[order].contiguous()
    return hashlib.sha256(targets.numpy().tobytes()).hexdigest()


def class_counts(data: Data) -> torch.Tensor | None:
    """Training samples a class, shape (classes,) int64; None for a task without classes."""
    return task_of(data).class_counts(data.train.targets, data.output_size)


def count_steps(config: Config, batches: int) -> int:
    """Steps of the whole run: epochs × batches, at most ``max_steps``."""
    train = config.train
    by_epochs = train.epochs * batches if train.epochs is not None else None
    return min(steps for steps in (by_epochs, train.max_steps) if steps is not None)
