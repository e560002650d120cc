"""A trained model on one split: the run's own evaluation, then class by class or residual by residual."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor

from trainctl.config.settings import Component
from trainctl.data import preprocessing as preparing
from trainctl.errors import ConfigError
from trainctl.inference.trained_run import Trained
from trainctl.registry import DATASETS
from trainctl.training import runtime
from trainctl.training.construct import construct
from trainctl.training.evaluation import choose_metrics
from trainctl.training.loop import evaluate
from trainctl.training.prepare_data import build_data

SPLITS = ("test", "val", "train", "all")
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_WORST = 5
_CHANGED = (
    "the data has changed since the run was trained: what is held out now may have been trained on then"
)


@dataclass(frozen=True)
class ClassRow:
    """One class: of its samples, how many were found; of those taken for it, how many were right.

    ``precision``, ``recall`` and ``f1`` are None where nothing could be counted.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class Residuals:
    """Target minus prediction of one output. ``r2`` is None where the targets do not vary."""

    output: int
    mean: float
    std: float
    quantiles: Mapping[float, float]
    r2: float | None


@dataclass(frozen=True)
class Worst:
    """A sample of the split, from 1, whose prediction is far off in one output."""

    sample: int
    output: int
    target: float
    prediction: float

    @property
    def residual(self) -> float:
        return self.target - self.prediction


@dataclass(frozen=True)
class Score:
    """What an evaluation has found.

    Attributes:
        split, dataset, samples: on what; ``available`` is how many samples the dataset has in all.
        values: loss and metrics, their names beginning with the split's.
        recorded: what the run has recorded of the same; None where it has nothing.
        classes, confusion: for classification; ``confusion`` counts (true, predicted), (classes, classes).
        residuals, worst: for regression.
        notices: what people must be told.
    """

    split: str
    dataset: str
    samples: int
    available: int
    values: Mapping[str, float]
    recorded: Mapping[str, Any] | None = None
    classes: tuple[ClassRow, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    residuals: tuple[Residuals, ...] = ()
    worst: tuple[Worst, ...] = ()
    notices: tuple[str, ...] = ()


class _Collected:
    """A metric that keeps what it is given, and adds no value of its own."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.outputs.append(outputs)
        self.targets.append(targets)

    def compute(self) -> Mapping[str, float]:
        return {}


class _Classes(_Collected):
    """Of each sample the class predicted: the outputs themselves would fill the memory."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(outputs.argmax(1), targets)


def score(trained: Trained, split: str | None, dataset: Component | None = None) -> Score:
    """Evaluate a trained model on one split of its dataset, or on ``all`` samples of it, or of another.

    Batches, loss, metrics and precision are the run's own, so that on its own data the values are those that
    it has recorded. Without a ``split`` it is the test split where there is one, else val.

    Raises ConfigError where the data does not fit the model, and for a split that is not there.
    """
    config = trained.config
    runtime.set_deterministic(config.deterministic)
    runtime.set_matmul_precision(config.train.matmul)
    own, dataset = dataset is None, dataset or config.dataset
    data = build_data(_whole(dataset) if split == "all" else dataset, trained.reading)
    # With all of it in one split there is no training split to compare.
    changed = own and split != "all" and not trained.trained_on(data)
    data = preparing.as_trained(
        data,
        task=trained.task,
        raw=trained.raw,
        output_size=trained.output_size,
        classes=trained.classes,
        transform=trained.transform(),
    )
    parts = {"train": data.train, "val": data.val, "test": data.test}
    present = {name: part for name, part in parts.items() if part is not None and len(part)}
    if split is None:
        split = "test" if "test" in present else "val" if "val" in present else "train"
    chosen = list(present) if split == "all" else [split]
    if split != "all" and split not in present:
        raise ConfigError(
            f"--split {split}: dataset {data.name} has none",
            f"it has: {', '.join([*present, 'all'])}",
        )
    collected = _Classes() if trained.task == "classification" else _Collected()
    metrics = choose_metrics(config.metrics, data)
    criterion = construct(config.loss, class_counts=trained.class_counts).to(trained.device)
    load = partial(construct, config.loader, transform=data.transform, device=trained.device)
    with contextlib.ExitStack() as opened:
        loaders = []
        for name in chosen:
            loader = load(split=present[name], batch_size=config.train.batch_size, seed=None, augment=None)
            if (close := getattr(loader, "close", None)) is not None:
                opened.callback(close)
            loaders.append(loader)
        values = evaluate(
            trained.model,
            criterion,
            itertools.chain.from_iterable(loader.batches() for loader in loaders),
            {**metrics, "": lambda: collected},
            runtime.precision_context(config.train.precision, trained.device),
        )
    outputs, targets = torch.cat(collected.outputs).cpu(), torch.cat(collected.targets).cpu()
    found = Score(
        split=split,
        dataset=data.name,
        samples=len(targets),
        available=sum(len(part) for part in present.values()),
        values={f"{split}/{name}": value for name, value in values.items()},
        recorded=_recorded(trained, split) if own else None,
        notices=(_CHANGED,) if changed else (),
    )
    if trained.task == "classification":
        confusion = count_confusion(outputs, targets, trained.output_size)
        return replace(
            found,
            classes=tuple(class_rows(confusion, trained.classes)),
            confusion=tuple(map(tuple, confusion.tolist())),
        )
    outputs, targets = outputs.reshape(len(targets), -1), targets.reshape(len(targets), -1)
    return replace(
        found, residuals=tuple(_residuals(outputs, targets)), worst=tuple(_worst(outputs, targets))
    )


def _whole(dataset: Component) -> Component:
    """The dataset with nothing held out of it, so that samples keep their places."""
    arguments = dict(dataset.arguments)
    if "test" in DATASETS.signature(dataset.name).names and not arguments.get("test_path"):
        arguments["test"] = 0
    return replace(dataset, arguments=arguments, common={**dataset.common, "val": 0})


def _recorded(trained: Trained, split: str) -> Mapping[str, Any] | None:
    """What the run has recorded of this split at this checkpoint."""
    for key in ("test", "best", "last"):
        known = trained.record.get(key)
        if isinstance(known, dict) and known.get("step") == trained.step:
            values = {name: value for name, value in known.items() if name.startswith(f"{split}/")}
            if values:
                return values
    return None


# ------------------------------------------------------------------ classes


def count_confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Samples by true class (row) and predicted class (column), (classes, classes) int64."""
    return torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)


def class_rows(confusion: Tensor, names: tuple[str, ...]) -> Iterator[ClassRow]:
    """Precision, recall and F1 of each class (van Rijsbergen, Information Retrieval, 1979)."""
    right = confusion.diagonal().tolist()
    support, taken = confusion.sum(1).tolist(), confusion.sum(0).tolist()
    for name, hits, held, named in zip(names, right, support, taken, strict=True):
        yield ClassRow(
            name,
            hits / named if named else None,
            hits / held if held else None,
            2 * hits / (held + named) if held + named else None,
            held,
        )


# ------------------------------------------------------------------ values


def _residuals(outputs: Tensor, targets: Tensor) -> Iterator[Residuals]:
    wanted, given = targets.to(torch.float64).numpy(), outputs.to(torch.float64).numpy()
    for column in range(wanted.shape[1]):
        target = wanted[:, column]
        residual = target - given[:, column]
        deviation = float(numpy.square(target - target.mean()).sum())
        quantiles = numpy.quantile(residual, QUANTILES).tolist()
        yield Residuals(
            column + 1,
            float(residual.mean()),
            float(residual.std()),
            dict(zip(QUANTILES, quantiles, strict=True)),
            1 - float(numpy.square(residual).sum()) / deviation if deviation > 0 else None,
        )


def _worst(outputs: Tensor, targets: Tensor) -> Iterator[Worst]:
    """The samples with the largest residuals, each in its worst output."""
    residuals = (targets.to(torch.float64) - outputs.to(torch.float64)).abs().nan_to_num(nan=torch.inf)
    largest, column = residuals.max(1)
    for row in largest.argsort(descending=True, stable=True)[:_WORST].tolist():
        output = int(column[row])
        yield Worst(row + 1, output + 1, float(targets[row, output]), float(outputs[row, output]))
