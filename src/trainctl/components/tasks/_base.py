"""What the targets of a dataset mean: everything in a run that depends on it is asked of its task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainctl.components.metrics._base import Metric
from trainctl.data.inputs import Shape
from trainctl.data.types import Data, is_sampled, with_changed_targets
from trainctl.errors import ConfigError
from trainctl.registry import TASKS
from trainctl.registry.protocols import START, Batch, Cursor, Loader


@dataclass(frozen=True)
class ClassRow:
    """One class: how many of its samples were found, and how many of its predictions were right.

    ``precision``, ``recall`` and ``f1`` are None where there was nothing to count.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class RegionRow(ClassRow):
    """One class of pixels, with its intersection over union."""

    iou: float | None


@dataclass(frozen=True)
class Residuals:
    """Target minus prediction of one output, from 1, called ``name`` where it has one. ``r2`` is None where
    the targets do not vary."""

    output: int
    mean: float
    std: float
    quantiles: Mapping[float, float]
    r2: float | None
    name: str = ""


@dataclass(frozen=True)
class Worst:
    """A sample of the split, from 1, whose prediction is far off in one output."""

    sample: int
    output: int
    target: float
    prediction: float
    name: str = ""

    @property
    def residual(self) -> float:
        return self.target - self.prediction


@dataclass(frozen=True, kw_only=True)
class Details:
    """The tables that ``eval`` shows below loss and metrics; a task fills those that suit it.

    ``confusion`` counts (true, predicted), (classes, classes); ``counted`` is what is counted.
    """

    classes: tuple[ClassRow, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    residuals: tuple[Residuals, ...] = ()
    worst: tuple[Worst, ...] = ()
    counted: str = "samples"


class Task:
    """A task whose targets are any float values: the defaults that a task of one's own changes.

    Attributes:
        name: the name that it is registered under.
        targets: what a target is, for messages.
        predictions: what the predictions are, for messages.
        loss: the loss that a message recommends.
        loss_targets: the ``target`` of the losses that fit.
        metrics: those of a run that chooses none.
        best: the metric that ``train.monitor=auto`` monitors where it is computed.
        reads_out: whether outputs are read by what the loss declares of them; else :meth:`predict` gets the
            outputs as they are.
        needs_output: whether the loss must declare what an output is.
        scales: whether targets may be scaled for a loss that takes values in any unit.
        metric_tasks: the ``task`` of the metrics that fit; empty: its own name.
        masks: whether a target is a mask of its image, (height, width): augmentation changes both alike, and
            ``predict`` writes pictures. Targets are then uint8, 255 where a pixel counts nowhere.
        class_numbers: whether a target is the number of one class, so that confusions can be counted.
        ordered: whether targets say of each class but the lowest if a sample is of it or above.
        made_up: the targets of made-up files: ``indicators`` are 0 and 1; empty: what the loss needs.
        adopts: the task whose data ``dataset.as_task`` takes; empty: any.
        made_up_classes: the names of the classes of made-up files; empty: any.
        example: overrides for a small run with such targets.
    """

    name = ""
    targets = "values"
    predictions = "values"
    loss = "mse"
    loss_targets: Collection[str] = ("value",)
    metrics: tuple[str, ...] = ()
    best = "loss"
    reads_out = False
    needs_output = False
    scales = True
    metric_tasks: Collection[str] = ()
    masks = False
    class_numbers = False
    ordered = False
    made_up = ""
    adopts = ""
    made_up_classes: Sequence[str] = ()
    example: tuple[str, ...] = ()

    def converted(self, where: str, targets: Any) -> Tensor:
        """The targets as the task has them: here (N, outputs) of any type, floats of which become float32
        before training.

        Raises ConfigError where that would lose something; ``where`` begins the message.
        """
        values = as_tensor(where, targets)
        if values.is_complex():
            raise ConfigError(f"{where} targets are {described(values)}; values must be real numbers")
        return values.unsqueeze(1) if values.dim() == 1 else values

    def check(self, where: str, targets: Tensor, outputs: int) -> None:
        """Raise ConfigError for targets that do not fit ``outputs``; ``where`` begins the message."""

    def check_inputs(self, where: str, targets: Tensor, shape: Shape) -> None:
        """Raise ConfigError for targets that do not fit the ``shape`` of the inputs."""

    def check_loss(self, loss: str, criterion: Any, data: Data) -> None:
        """Raise ConfigError where ``loss`` cannot take the targets of ``data``, and would not say so."""

    def adopted(self, data: Data) -> Data:
        """The inputs of ``data``, of another task, as data of this one: ``dataset.as_task``.

        Raises ConfigError where this task has targets of its own.
        """
        raise ConfigError(
            f"dataset.as_task={self.name}: it needs {self.targets}, which dataset {data.name} has or has not",
            "use as_task for a task that makes its targets of the inputs, such as autoencoder",
        )

    def loader(self, loader: Loader) -> Loader:
        """What gives the batches of this task, given one of inputs and targets as the dataset has them."""
        return loader

    def metric(self, metric: Metric) -> Metric:
        """A metric of outputs and targets of this task, given one of those that it is written for."""
        return metric

    def class_names(self, names: Sequence[str], outputs: int) -> tuple[str, ...]:
        """A different name for each class, or for each value; empty where they have none."""
        return tuple(names) if len(set(names)) == outputs else ()

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor | None:
        """Samples of each class, (classes,) int64, or with and without it, (2, classes); None: no classes."""
        return None

    def relabelled(self, targets: Tensor, outputs: int, change: Callable[[Tensor, int], Tensor]) -> Tensor:
        """``targets`` with the labels that ``change`` makes of class numbers (N,) and the number of classes,
        for ``dataset.label_noise``. Raises ConfigError for a task without classes."""
        raise ConfigError(
            f"dataset.label_noise: needs classes, the targets are {self.targets}", "leave it out"
        )

    def monitor(self, metrics: Collection[str]) -> str:
        """What ``train.monitor=auto`` stands for in a run that computes ``metrics``."""
        return f"val/{self.best}" if self.best in metrics else "val/loss"

    def as_trained(self, data: Data, outputs: int, classes: Sequence[str]) -> Data:
        """``data`` with the targets of a model that was trained on other data.

        Raises ConfigError where its targets are not those of the model.
        """
        if data.output_size != outputs:
            raise ConfigError(
                f"dataset {data.name} has {data.output_size} values to predict, the model predicts {outputs}",
                "evaluate it on data with the same targets",
            )
        own = class_names(data)
        if not own or not classes or own == tuple(classes):
            return data
        if foreign := [name for name in own if name not in classes]:
            raise ConfigError(
                f"dataset {data.name} has the target {foreign[0]}, the model predicts {', '.join(classes)}",
                "evaluate it on data with the same targets",
            )
        order = torch.tensor([own.index(name) for name in classes])
        return with_each_target(data, lambda targets: targets[:, order], classes=tuple(classes))

    def predict(self, outputs: Tensor) -> Tensor:
        """The predictions that a model's ``outputs`` (N, …) stand for, (N, classes) or (N, outputs)."""
        return outputs.flatten(1)

    def columns(self, classes: Sequence[str], outputs: int) -> list[str]:
        """The columns of a CSV file of predictions."""
        if outputs == 1:
            return ["prediction"]
        return [f"prediction_{name}" for name in classes or range(1, outputs + 1)]

    def cells(self, prediction: Sequence[float], classes: Sequence[str]) -> list[Any]:
        """One sample's prediction in these columns."""
        return list(prediction)

    def fields(self, prediction: Sequence[float], classes: Sequence[str]) -> dict[str, Any]:
        """One sample's prediction in a JSON object."""
        if len(prediction) == 1:
            return {"prediction": prediction[0]}
        return {"prediction": dict(zip(classes, prediction, strict=True)) if classes else list(prediction)}

    def with_threshold(self, threshold: str, classes: Sequence[str]) -> Task:
        """The task with another threshold for its predictions, as ``--threshold`` gives it.

        Raises ConfigError where it has none, and for a wrong one.
        """
        raise ConfigError(f"--threshold {threshold}: {self.name} has no threshold", "leave it out")

    def continued(
        self, model: Any, prompt: str, reading: Mapping[str, Any], length: int, temperature: float, seed: int
    ) -> Iterator[str]:
        """Text that goes on after ``prompt``, ``length`` tokens, piece by piece; ``reading`` is the data's.

        Each token is drawn from the model's probabilities at ``temperature``; 0 takes the likeliest. Raises
        ConfigError where the task has no text.
        """
        raise ConfigError(
            f"--prompt: {self.name} does not go on with a text", "use --input FILE --output FILE"
        )

    def kept(self, outputs: Tensor) -> Tensor:
        """The part of a batch's outputs that :meth:`details` needs."""
        return outputs

    def collected(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`details` gets of a batch, each with a row for each sample."""
        return self.kept(outputs), targets

    def details(self, kept: Tensor, targets: Tensor, classes: Sequence[str]) -> Details:
        """The tables of an evaluation; ``kept`` and ``targets`` are those of the whole split, on the CPU."""
        return Details()


def task_named(name: str) -> Task:
    """The task registered as ``name``. Raises ConfigError when there is none."""
    task: Task = TASKS.load(name)()
    return task


def asked_task(common: Mapping[str, Any]) -> Task | None:
    """The task of ``dataset.as_task``, a name or a name with arguments; None without it."""
    asked = common.get("as_task")
    if asked is None or isinstance(asked, str):
        return None if asked is None else task_named(asked)
    ((name, arguments),) = asked.items()
    task: Task = TASKS.load(name)(**arguments)
    return task


def task_of(data: Data) -> Task:
    """The task of a dataset. Raises ConfigError when there is no such task."""
    if data.task not in TASKS.names():
        raise ConfigError(
            f"dataset {data.name}: task {data.task!r} does not exist",
            f"there are: {', '.join(TASKS.names())}",
        )
    return task_named(data.task)


def class_names(data: Data) -> tuple[str, ...]:
    """A different name for each class, or value: the dataset's own, or the task's where it has none."""
    return task_of(data).class_names(data.classes, data.output_size)


def with_targets(data: Data) -> Data:
    """``data`` with the targets in the type and shape of its task.

    Raises ConfigError where they do not fit the inputs, the task or the number of outputs.
    """
    task = task_of(data)
    splits: dict[str, Any] = {}
    for label, split in data.splits.items():
        where = f"dataset {data.name}: {label}"
        samples = None if is_sampled(split) else len(split)
        change = partial(_checked, task, where, data.output_size, data.input_shape, samples)
        splits[label] = with_changed_targets(split, change)
        if split.weights is not None and len(split.weights) != len(split):
            raise ConfigError(f"{where} has {len(split)} inputs, {len(split.weights)} weights")
    return replace(data, **splits)


def _checked(task: Task, where: str, outputs: int, shape: Shape, samples: int | None, targets: Any) -> Tensor:
    """Targets in the type and shape of ``task``; ``samples`` is how many there must be, None: any number."""
    made = task.converted(where, targets)
    if samples not in (None, len(made)):
        raise ConfigError(f"{where} has {samples} inputs, {len(made)} targets")
    if len(made):
        task.check(where, made, outputs)
        task.check_inputs(where, made, shape)
    return made


def with_each_target(data: Data, change: Callable[[Tensor], Tensor], **others: Any) -> Data:
    """``data`` with the targets of every split changed, and with ``others`` of its attributes."""
    for part, split in data.splits.items():
        others[part] = with_changed_targets(split, change)
    return replace(data, **others)


def as_tensor(where: str, targets: Any) -> Tensor:
    """A tensor of one target or more a sample, without gradient. Raises ConfigError for anything else."""
    try:
        values = targets.detach() if isinstance(targets, Tensor) else torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{where} targets are no tensor: {reason}") from error
    if not values.dim():
        raise ConfigError(f"{where} targets are one number; there must be one for each sample")
    return values


def described(values: Tensor) -> str:
    """Type and shape in messages."""
    return f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}"


class WithTargets:
    """The batches of a loader, with the targets that ``targets`` makes of each, in memory of their own."""

    def __init__(self, loader: Loader, targets: Callable[[Batch], Tensor]) -> None:
        self._loader, self._targets = loader, targets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def reuse(self) -> bool:
        """Each batch has targets of its own."""
        return False

    def batches(self, cursor: Cursor = START) -> Iterator[Batch]:
        for batch in self._loader.batches(cursor):
            yield batch._replace(targets=self._targets(batch))
