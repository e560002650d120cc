"""From a checked config to a run: data, model, criterion, optimizer, scheduler, step, hooks."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trainctl.checkpoint.format import CheckpointData
from trainctl.components.losses.auto import loss_name
from trainctl.components.optimizers._lean import stock_classes
from trainctl.config.settings import Config, Ddp, Train
from trainctl.data.fingerprint import described_data, differences
from trainctl.data.readout import RAW
from trainctl.data.types import Data, StreamSplit, is_sampled
from trainctl.distributed.group import Group
from trainctl.errors import ConfigError
from trainctl.registry.protocols import Batch, Criterion
from trainctl.training import cuda_graph, devices, parameters, runtime
from trainctl.training.activation_checkpoint import checkpoint_activations
from trainctl.training.built import Built, describe
from trainctl.training.checks import check_batch_of_one, check_fit, check_state, refuse_pieces
from trainctl.training.construct import build_model, check_loop, check_optimizer, check_part, construct
from trainctl.training.evaluation import choose_metrics, choose_monitor
from trainctl.training.hooks import overfit
from trainctl.training.hooks.best import Best
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.hooks.ema import Ema
from trainctl.training.hooks.guard import Guard
from trainctl.training.hooks.passes import Passes
from trainctl.training.hooks.plateau import Plateau
from trainctl.training.hooks.slow_steps import SlowSteps
from trainctl.training.hooks.unreached import Unreached
from trainctl.training.loop import fit
from trainctl.training.prepare_data import Loaders, build_loaders, class_counts, prepare, read_data
from trainctl.training.run import Hook, Run
from trainctl.training.steps.choose import Step, choose_step, micro_batches, unguarded_step
from trainctl.training.steps.whole_batch import WholeBatch
from trainctl.training.unregistered import refuse_unregistered
from trainctl.training.warning_signs import signs_in

_EPOCHS, _MOST_EPOCHS, _TABLE_STEPS = 20, 200, 10_000


def build(
    config: Config,
    data: Data | None = None,
    recorded: Mapping[str, Any] | None = None,
    stored: Mapping[str, Any] | None = None,
    group: Group | None = None,
) -> Built:
    """Build everything a config names and check that the parts fit, before the first step.

    Args:
        data: of another run with the same dataset, to be used again.
        recorded: the choices of the run that is resumed, which are kept.
        stored: the description of that run's data, in its checkpoint.
        group: the processes that train it together, each of which calls this.

    Raises ConfigError for missing or malformed data, and for shapes, targets or a device that do not fit.
    """
    if group is not None:
        devices.check_devices(config, group)
    if config.train.overfit_batches is not None:
        config = overfit.simplified(config)
    device = _prepare_device(config, group)
    begun = None if config.init_from is None else parameters.best_of(config.init_from)
    data = _read(config, data, stored, begun, group)
    data.transform.to(device)  # the statistics it was fitted with, if it has any
    runtime.seed_everything(config.seed)
    criterion = _build_criterion(config, data, device)
    # Messages name the loss that it is.
    config = replace(config, loss=replace(config.loss, name=loss_name(config.loss.name, data.task)))
    loop = construct(config.loop, config=config)

    runtime.seed_everything(config.seed)
    model, start, notices = _build_model(config, data, device, begun, group, is_new=stored is None)
    with runtime.random_state_kept(device):
        data, merging = prepare(config, data, criterion, loop, stored, start)
        metrics = choose_metrics(config.metrics, data)
        monitor, lower_is_better = choose_monitor(config.train.monitor, data, metrics)
        loaders = build_loaders(config, data, device, criterion, group)
    batch = next(iter(loaders.train.batches()))
    signs = _check(config, _Parts(loop, model, criterion, loaders), batch, data, group)
    if config.dataset.common.get("limit") is None and config.train.overfit_batches is None:
        signs = [*signs_in(data), *signs]
    averaged = None if config.train.ema is None else copy.deepcopy(model)
    recomputed = checkpoint_activations(config, model)
    if group is not None:
        loaders = devices.lay_out(config, group, model, averaged, loaders, batch)

    parts = _Parts(loop, model, criterion, loaders)
    run, plain, whole_batch, plateau = _assemble(config, data, parts, metrics, lower_is_better, group)
    run.averaged = averaged
    threads = _choose_threads(config, run, batch, group)
    _attach(run, config, monitor, lower_is_better, plateau, threads)
    if whole_batch is not None:
        devices.attach(run, config, whole_batch)
    choices, said = _choose_step(config, run, loop, plain, batch, recorded, whole_batch)
    if isinstance(data.train, StreamSplit):
        choices = {**choices, "stream": loaders.train.note}  # type: ignore[attr-defined]
    elif is_sampled(data.train):
        choices = {**choices, "targets": f"{len(data.train.targets):,} evenly spaced targets were looked at"}
    described = {
        "groups": parameters.described_groups(config, model),
        "recomputed": recomputed,
        "label_noise": data.label_noise,
    }
    if signs:
        choices = {**choices, "warnings": "; ".join(signs)}
    choices |= {key: text for key, text in described.items() if text}
    resumes = getattr(loop, "resumes", True)
    return Built(
        run=run,
        data=data,
        described=describe(data),
        device=device,
        threads=threads.number,
        threads_note=threads.note,
        test=loaders.test,
        monitor=monitor,
        lower_is_better=lower_is_better,
        fit=getattr(loop, "fit", fit),
        seed=config.seed,
        resumes=resumes,
        trial_step=plain.take,
        notices=(*signs, *notices, *_notices(config, loaders, group, resumes=resumes), *merging, *said),
        choices=choices,
        group=group,
    )


def _notices(config: Config, loaders: Loaders, group: Group | None, *, resumes: bool) -> Iterator[str]:
    """What a user would not expect of such a run."""
    if config.train.overfit_batches is not None:
        yield overfit.notice(len(loaders.train), len(loaders.train_split))
    if not resumes:
        yield f"loop={config.loop.name} does not resume: an interrupted run starts again"
    if config.strategy.name == "fsdp" and group is None:
        yield "strategy=fsdp does nothing on one device; give devices=N"
    if "balanced" == config.dataset.common["sampling"] == config.loss.arguments.get("class_weights"):
        yield (
            "dataset.sampling=balanced and loss.class_weights=balanced: rare classes count twice, as they are"
            " drawn more often and weigh more; one of the two is enough"
        )
    if config.train.min_delta and config.train.patience is None:
        yield f"train.min_delta={config.train.min_delta:g} does nothing without train.patience"


def count_steps(train: Train, data: Data, batches: int) -> int:
    """Steps of the whole run: epochs × batches, at most ``max_steps``."""
    epochs = auto_epochs(data, batches) if isinstance(train.epochs, str) else train.epochs
    by_epochs = epochs * batches if epochs is not None else None
    return min(steps for steps in (by_epochs, train.max_steps) if steps is not None)


def auto_epochs(data: Data, batches: int) -> int:
    """``train.epochs=auto``: a small table has too few batches to learn from it in 20 epochs."""
    if data.reading.get("kind") != "table":
        return _EPOCHS
    return max(_EPOCHS, min(_MOST_EPOCHS, math.ceil(_TABLE_STEPS / batches)))


def _read(
    config: Config,
    data: Data | None,
    stored: Mapping[str, Any] | None,
    begun: CheckpointData | None,
    group: Group | None,
) -> Data:
    """The data that the config names, or ``data``; the same in every process of ``group``."""
    with nullcontext() if group is None else group.first_on_each_machine():
        data = read_data(config, stored, begun) if data is None else data
    if group is not None:
        devices.check_same_data(group, data.fingerprint)
    return data


class _Parts(NamedTuple):
    """What the config names, made and fitted to each other's shapes."""

    loop: Any
    model: Any
    criterion: Any
    loaders: Loaders


def _check(config: Config, parts: _Parts, batch: Batch, data: Data, group: Group | None) -> list[str]:
    """Warning signs. Raises ConfigError where the model fits neither data nor loss, or cannot be saved."""
    check_state(config, parts.model)
    if config.train.micro_batch is not None:
        refuse_pieces(config, parts.model)
    signs = check_fit(config, parts.model, parts.criterion, batch, data)
    count = 1 if group is None else group.size
    check_batch_of_one(config, parts.model, batch.inputs, len(parts.loaders.train_split), count)
    return signs


class _Assembled(NamedTuple):
    """A run without hooks, its step without a guard, and what is attached to it later."""

    run: Run
    plain: Step
    whole_batch: WholeBatch | None
    plateau: ReduceLROnPlateau | None


def _assemble(
    config: Config, data: Data, parts: _Parts, metrics: Any, lower_is_better: bool, group: Group | None
) -> _Assembled:
    """Give the model its optimizer, its scheduler and its step."""
    loop, model, criterion, loaders = parts
    optimizer = _build_optimizer(config, model)
    check_loop(config.loop, loop, model, criterion, optimizer)
    device = next(model.parameters()).device
    precision = runtime.precision_context(config.train.precision, device)
    total_steps = count_steps(config.train, data, len(loaders.train))
    scheduler = _build_scheduler(config, optimizer, total_steps, loaders, lower_is_better)
    plateau = scheduler if isinstance(scheduler, ReduceLROnPlateau) else None
    stepped = None if plateau is not None else scheduler
    whole_batch = (
        None if group is None else devices.whole_batch(config, model, criterion, loaders.train, group)
    )
    plain = unguarded_step(config, loop, None if whole_batch is None else whole_batch.cut)
    known = model, criterion, optimizer, stepped, loaders.train, loaders.val
    run = Run(*known, metrics, precision, total_steps, plain.take)
    run.readout = (data.readout or RAW).on(device)
    return _Assembled(run, plain, whole_batch, plateau)


def _prepare_device(config: Config, group: Group | None) -> torch.device:
    device = runtime.choose_device(config.device) if group is None else devices.choose_device(config, group)
    runtime.set_deterministic(config.deterministic)
    torch.set_float32_matmul_precision(config.train.matmul)
    return device


def _build_model(
    config: Config,
    data: Data,
    device: torch.device,
    begun: CheckpointData | None,
    group: Group | None,
    *,
    is_new: bool,
) -> tuple[Any, Any, list[str]]:
    """The model with its first values, on the device; the data of the run whose values it has, if it has them
    all; notices about them."""

    def built() -> Any:
        return build_model(config.model, data.input_shape, data.output_size, pretrained=is_new)

    model = built()
    refuse_unregistered(config.model.name, model, built, config.seed + 1)
    start: Any = None
    notices = [*parameters.check_types(config.model.name, model), *getattr(model, "notices", ())]
    if config.init_from is not None and begun is not None:
        is_whole, notice = parameters.copy_from(config.init_from, begun.model, model)
        start = described_data(begun.state) if is_whole else None
        notices.append(notice)
        if found := differences(begun.state, data):
            notices.append(f"init_from={config.init_from} was trained on other data: {'; '.join(found)}")
    if config.train.overfit_batches is not None:
        overfit.without_dropout(model)
    model = model.to(device)
    if group is not None:
        devices.check_model(config, model, group)
        notices += devices.unequal(model, device)
        model = devices.synchronised(model, device)
    return model, start, notices


def _build_criterion(config: Config, data: Data, device: torch.device) -> Any:
    criterion = construct(config.loss, class_counts=class_counts(data), task=data.task)
    check_part(config.loss, criterion, Criterion)
    return criterion.to(device)


def _build_optimizer(config: Config, model: Any) -> Any:
    with stock_classes(config.compile is not False):
        optimizer = construct(config.optim, parameters=parameters.groups(config, model))
    check_optimizer(config.optim, optimizer)
    if config.optim.common.get("groups"):
        parameters.check_groups_of(optimizer)
    return optimizer


def _build_scheduler(
    config: Config, optimizer: Any, total_steps: int, loaders: Loaders, lower_is_better: bool
) -> Any:
    name = config.scheduler.name
    if name != "none" and not isinstance(optimizer, torch.optim.Optimizer):
        message = f"scheduler={name} needs an optimizer of torch, not optim={config.optim.name}"
        raise ConfigError(message, "use scheduler=none, or optim=sgd, adam …")
    supplied = {"total_steps": total_steps, "steps_per_epoch": len(loaders.train)}
    scheduler = construct(config.scheduler, optimizer=optimizer, lower_is_better=lower_is_better, **supplied)
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        message = f"scheduler={name} built a {type(scheduler).__name__}"
        raise ConfigError(message, "a scheduler is a torch.optim.lr_scheduler.LRScheduler, or None")
    patience = config.train.patience
    if loaders.val is None and (isinstance(scheduler, ReduceLROnPlateau) or patience is not None):
        needs = f"scheduler={name}" if patience is None else f"train.patience={patience}"
        raise ConfigError(f"{needs} needs validation data", "hold some out: dataset.val=0.1")
    return scheduler


def _attach(
    run: Run, config: Config, monitor: str, lower_is_better: bool, plateau: Any, threads: runtime.Threads
) -> None:
    """Attach the hooks that the config asks for, in the order of their calls."""
    train, guard = config.train, config.guard
    hooks: list[Hook] = []
    if config.compile is not False:
        from trainctl.training.compile import Compiled, refuse_compile

        refuse_compile(config, run.model)
        mode = "default" if config.compile is True else config.compile
        hooks.append(Compiled(run.model, mode, train.piece))
    if guard.loss or guard.gradients:
        deferred = None if config.loop.name == "optimizer" and isinstance(config.strategy, Ddp) else False
        hooks.append(Guard(guard.loss, guard.gradients, guard.skip, deferred=deferred))
    if train.clip_norm is not None:
        hooks.append(ClipNorm(train.clip_norm))
    if plateau is not None:
        hooks.append(Plateau(plateau, monitor))
    if train.ema is not None:
        assert run.averaged is not None
        hooks.append(Ema(run.model, run.averaged, train.ema))
    if train.overfit_batches is not None:
        hooks.append(overfit.Overfit(len(run.train_loader)))
    if config.loop.name == "optimizer":
        hooks.append(Unreached())
    hooks.append(Best(monitor, train.patience, train.min_delta, lower_is_better=lower_is_better))
    if isinstance(stream := getattr(run.train_loader, "split", None), StreamSplit):
        epochs = train.epochs if stream.length is None or train.epochs != "auto" else _EPOCHS
        hooks += [Passes(epochs)] if isinstance(epochs, int) else []
    if threads.seconds is not None and threads.number > 1:
        hooks.append(SlowSteps(threads.number, threads.seconds))
    run.attach(hooks)


def _choose_threads(config: Config, run: Run, batch: Batch, group: Group | None) -> runtime.Threads:
    if group is not None:
        return devices.choose_threads(config, group)

    def trial(model: Any, optimizer: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        return run.step(model, run.criterion, optimizer, inputs, targets, run.precision)

    tensors = batch.inputs, batch.targets
    return runtime.choose_threads(
        config.threads, batch.targets.device, run.model, run.optimizer, trial, tensors
    )


def _choose_step(
    config: Config,
    run: Run,
    loop: Any,
    plain: Step,
    batch: Batch,
    recorded: Mapping[str, Any] | None,
    whole_batch: WholeBatch | None,
) -> tuple[dict[str, str], list[str]]:
    """Give the run its step; returns the choices to record and notices."""
    kept = recorded or {}
    pieces = micro_batches(config, run, kept.get("micro_batch"))
    step = choose_step(
        config, loop, run.hook("guard"), None if whole_batch is None else whole_batch.cut, pieces
    )
    if whole_batch is not None:
        step = whole_batch.step(step)
        run.step, run.step_name = step.take, step.name
        return {}, []
    step, choices, said = cuda_graph.capture(config, run, plain, step, batch, kept.get("capture"))
    run.step, run.step_name = step.take, step.name
    if config.train.micro_batch == "auto":
        choices = {**choices, "micro_batch": str(pieces.size)}
    return choices, said
