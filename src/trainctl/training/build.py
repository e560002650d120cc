"""From a checked config to a run: data, model, criterion, optimizer, scheduler, step, hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import Content
from trainctl.components.optimizers._lean import stock_classes
from trainctl.config.settings import Config
from trainctl.data import preprocessing
from trainctl.data.types import Data
from trainctl.errors import ConfigError
from trainctl.registry.protocols import Criterion, Loader, Stateful
from trainctl.training import cuda_graph, overfitting, parameters, runtime
from trainctl.training.checks import check_batch_of_one, check_fit
from trainctl.training.compile import Compiled, refuse_compile
from trainctl.training.construct import build_model, check_loop, check_optimizer, check_part, construct
from trainctl.training.evaluation import choose_metrics, choose_monitor
from trainctl.training.hooks.best import Best
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.hooks.ema import Ema
from trainctl.training.hooks.guard import Guard
from trainctl.training.hooks.overfit import Overfit
from trainctl.training.hooks.plateau import Plateau
from trainctl.training.loop import fit
from trainctl.training.prepare_data import Loaders, build_data, build_loaders, class_counts, data_fingerprint
from trainctl.training.run import Hook, Run
from trainctl.training.steps.choose import choose_step, unguarded_step


@dataclass(frozen=True)
class Built:
    """A run that is ready to train, and what people are told about it.

    Attributes:
        trial_step: the step without its guard and not captured, for trials on copies.
        described: what a reader of its checkpoints needs to know of the data.
        choices: what was found out and chosen, such as whether the step is captured, for ``run.json``.
    """

    run: Run
    data: Data
    described: dict[str, Any]
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
    trial_step: Callable[..., Tensor]
    notices: tuple[str, ...]
    choices: Mapping[str, str]

    @property
    def loaders(self) -> list[Loader]:
        run = self.run
        return [loader for loader in (run.train_loader, run.val_loader, self.test) if loader is not None]

    @property
    def loading(self) -> str:
        """How batches of training data are made."""
        loader = self.run.train_loader
        return str(getattr(loader, "note", type(loader).__name__))

    def data_fingerprint(self, epoch: int) -> str:
        """SHA-256 of the training targets in the order of ``epoch``: another one means other data."""
        return data_fingerprint(self.data, self.seed, epoch)

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds beside the model and the state, by name."""
        return {**self.run.parts(), "random": snapshot.RandomStates(self.device)}

    def snapshot(self, fingerprint: str | None = None) -> Content:
        """A copy of everything that decides how the run goes on."""
        run = self.run
        return snapshot.take(run.result.state_dict(), self.plain(fingerprint), self.parts())

    def plain(self, fingerprint: str | None = None) -> dict[str, Any]:
        """The plain values of a checkpoint: where the run stands, and what it was trained on."""
        state = self.run.state
        fingerprint = fingerprint or self.data_fingerprint(state.epoch)
        return {**state.state_dict(), "data": self.described, "data_fingerprint": fingerprint}

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


def build(config: Config, data: Data | None = None, recorded: Mapping[str, Any] | None = None) -> Built:
    """Build everything a config names and check that the parts fit, before the first step.

    Args:
        data: that of another run with the same dataset, which is not read again.
        recorded: what was chosen when the run began, and is not chosen anew.

    Raises ConfigError where they do not: missing or malformed data, shapes, targets, device.
    """
    runtime.refuse_distributed()
    if config.train.overfit_batches is not None:
        config = overfitting.simplified(config)
    device = _prepare_device(config)
    data = build_data(config.dataset) if data is None else data
    data.transform.to(device)  # the statistics it was fitted with, if it has any
    metrics = choose_metrics(config.metrics, data)
    monitor, lower_is_better = choose_monitor(config.train.monitor, data, metrics)
    loaders = build_loaders(config, data, device)

    runtime.seed_everything(config.seed)
    model, notices = _build_model(config, data, loaders)
    model = model.to(device)
    criterion = construct(config.loss, class_counts=class_counts(data))
    check_part(config.loss, criterion, Criterion)
    criterion = criterion.to(device)
    with stock_classes(config.compile is not False):
        optimizer = construct(config.optim, parameters=parameters.groups(config, model))
    check_optimizer(config.optim, optimizer)
    loop = construct(config.loop, config=config)
    check_loop(config.loop, loop, model, criterion, optimizer)
    if not getattr(loop, "resumes", True):
        notices.append(f"loop={config.loop.name} does not resume: an interrupted run starts again")
    precision = runtime.precision_context(config.train.precision, device)
    total_steps = count_steps(config, len(loaders.train))
    scheduler = _build_scheduler(config, optimizer, total_steps, loaders, lower_is_better)

    batch = next(iter(loaders.train.batches()))
    check_fit(config, model, criterion, batch, data)
    check_batch_of_one(config, model, batch.inputs, len(loaders.train_split))
    plain = unguarded_step(config, loop)
    threads, threads_note = runtime.choose_threads(
        config.threads,
        device,
        model,
        optimizer,
        lambda trial_model, trial_optimizer, inputs, targets: plain.take(
            trial_model, criterion, trial_optimizer, inputs, targets, precision
        ),
        (batch.inputs, batch.targets),
    )
    plateau = scheduler if isinstance(scheduler, ReduceLROnPlateau) else None
    run = Run(
        model,
        criterion,
        optimizer,
        None if plateau is not None else scheduler,
        loaders.train,
        loaders.val,
        metrics,
        precision,
        total_steps,
        plain.take,
    )
    _attach(run, config, monitor, lower_is_better, plateau)
    step = choose_step(config, loop, run.hook("guard"))
    step, choices, said = cuda_graph.capture(config, run, plain, step, batch, (recorded or {}).get("capture"))
    run.step, run.step_name = step.take, step.name
    notices += said
    return Built(
        run=run,
        data=data,
        described=_described(data),
        device=device,
        threads=threads,
        threads_note=threads_note,
        test=loaders.test,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        monitor=monitor,
        lower_is_better=lower_is_better,
        fit=getattr(loop, "fit", fit),
        seed=config.seed,
        resumes=getattr(loop, "resumes", True),
        trial_step=plain.take,
        notices=tuple(notices),
        choices=choices,
    )


def count_steps(config: Config, batches: int) -> int:
    """Steps of the whole run: epochs × batches, at most ``max_steps``."""
    train = config.train
    by_epochs = train.epochs * batches if train.epochs is not None else None
    return min(steps for steps in (by_epochs, train.max_steps) if steps is not None)


def _prepare_device(config: Config) -> torch.device:
    device = runtime.choose_device(config.device)
    runtime.set_deterministic(config.deterministic)
    runtime.set_matmul_precision(config.train.matmul)
    return device


def _build_model(config: Config, data: Data, loaders: Loaders) -> tuple[Any, list[str]]:
    """The model with the values it starts from, and what people must be told of them."""
    model = build_model(config.model, data.input_shape, data.output_size)
    notices = [] if config.init_from is None else [parameters.copy_from(config.init_from, model)]
    if config.train.overfit_batches is not None:
        overfitting.without_dropout(model)
        notices.append(overfitting.notice(len(loaders.train), len(loaders.train_split)))
    return model, notices


def _build_scheduler(
    config: Config, optimizer: Any, total_steps: int, loaders: Loaders, lower_is_better: bool
) -> Any:
    name = config.scheduler.name
    if name != "none" and not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"scheduler={name} needs an optimizer of torch, not optim={config.optim.name}",
            "use scheduler=none, or optim=sgd, adam …",
        )
    scheduler = construct(
        config.scheduler,
        optimizer=optimizer,
        total_steps=total_steps,
        steps_per_epoch=len(loaders.train),
        lower_is_better=lower_is_better,
    )
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        raise ConfigError(
            f"scheduler={name} built a {type(scheduler).__name__}",
            "a scheduler is a torch.optim.lr_scheduler.LRScheduler, or None",
        )
    if isinstance(scheduler, ReduceLROnPlateau) and loaders.val is None:
        raise ConfigError(f"scheduler={name} needs validation data", "hold some out: dataset.val=0.1")
    return scheduler


def _attach(run: Run, config: Config, monitor: str, lower_is_better: bool, plateau: Any) -> None:
    """Have the hooks that the config asks for watch the run, in the order in which they are called."""
    train, guard = config.train, config.guard
    hooks: list[Hook] = []
    if config.compile is not False:
        refuse_compile(config, run.model)
        mode = "default" if config.compile is True else config.compile
        hooks.append(Compiled(run.model, mode, train.batch_size))
    if guard.loss or guard.gradients:
        hooks.append(
            Guard(
                run.model,
                run.optimizer,
                loss=guard.loss,
                gradients=guard.gradients,
                max_skipped_steps=guard.skip,
                deferred=None if config.loop.name == "optimizer" else False,
            )
        )
    if train.clip_norm is not None:
        hooks.append(ClipNorm(train.clip_norm))
    if plateau is not None:
        hooks.append(Plateau(plateau, monitor))
    if train.ema is not None:
        run.averaged = copy.deepcopy(run.model)
        hooks.append(Ema(run.model, run.averaged, train.ema))
    if train.overfit_batches is not None:
        hooks.append(Overfit(len(run.train_loader)))
    hooks.append(Best(monitor, train.patience, train.min_delta, lower_is_better=lower_is_better))
    run.attach(hooks)


def _described(data: Data) -> dict[str, Any]:
    """What a reader of a checkpoint needs to build the model again, to give it inputs as in training, and to
    name its outputs."""
    counts = class_counts(data)
    return {
        "name": data.name,
        "task": data.task,
        "input_shape": list(data.input_shape),
        "output_size": data.output_size,
        "classes": list(data.classes),
        "class_counts": None if counts is None else counts.tolist(),
        **preprocessing.describe(data),
    }
