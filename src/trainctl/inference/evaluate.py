"""A trained model evaluated on one split: loss and metrics as in training, then the task's own tables."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from trainctl.components.tasks._base import Details
from trainctl.config.settings import Component
from trainctl.data import AnySplit, Data
from trainctl.data.fingerprint import refusal
from trainctl.data.preprocessing import describe_raw, shown
from trainctl.errors import ConfigError
from trainctl.inference.trained_run import Trained
from trainctl.registry import DATASETS
from trainctl.runs.record import without_nan
from trainctl.training import runtime
from trainctl.training.evaluation import choose_metrics
from trainctl.training.loop import evaluate
from trainctl.training.prepare_data import build_data, make_loader

# On another device or torch, the last digits differ, and with them what lies near the border of two classes.
_ELSEWHERE = 0.02
_CHANGED = "samples of this split may have been trained on"


@dataclass(frozen=True, kw_only=True)
class Score(Details):
    """The result of an evaluation.

    Attributes:
        split, dataset, samples: the data; ``available`` is how many samples the dataset has in all.
        values: loss and metrics, prefixed with the split.
        recorded: the same values in the run's record; None where it has none.
        same_environment: whether torch and device are those of the run, and it was trained one by one.
        by_target: the metrics of each target by its name, where there are several.
        notices: warnings to print before the results.
    """

    split: str
    dataset: str
    samples: int
    available: int
    values: Mapping[str, float]
    recorded: Mapping[str, Any] | None = None
    same_environment: bool = True
    by_target: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def differing(self) -> dict[str, Any]:
        """The values that the run recorded otherwise: as it recorded them."""
        here = without_nan(self.values)
        return {name: value for name, value in (self.recorded or {}).items() if here.get(name) != value}

    @property
    def is_off(self) -> bool:
        """Whether values differ from the recorded ones by more than the run and the environment explain."""
        tolerance = 0.0 if self.same_environment else _ELSEWHERE
        return any(
            not isinstance(value, float)
            or not math.isclose(value, self.values.get(name, math.nan), rel_tol=tolerance, abs_tol=tolerance)
            for name, value in self.differing.items()
        )


class _Collector:
    """A metric without a value that keeps what ``keep`` makes of outputs and targets."""

    def __init__(self, keep: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.keep = keep
        self.batches: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.batches.append(self.keep(outputs, targets))

    def compute(self) -> Mapping[str, float]:
        return {}


def score(
    trained: Trained,
    split: str | None,
    dataset: Component | None = None,
    *,
    allow_change: bool = False,
) -> Score:
    """Evaluate a trained model on one split of its dataset or of another one, or on ``all`` samples.

    Batches, loss, metrics and precision are the run's own, so on its own data the values equal the recorded
    ones. The default ``split`` is test where there is one, else val, else train.

    Raises ConfigError where the data does not fit the model, is no more that of the run (unless
    ``allow_change``), and for a split that does not exist.
    """
    config = trained.config
    runtime.set_deterministic(config.deterministic)
    torch.set_float32_matmul_precision(config.train.matmul)
    own, dataset = dataset is None, dataset or config.dataset
    data = build_data(_unsplit(dataset) if split == "all" else dataset, trained.reading)
    present = [name for name in ("test", "val", "train") if getattr(data, name)]
    split = split or present[0]
    if split not in (*present, "all"):
        raise ConfigError(
            f"--split {split}: dataset {data.name} has none", f"it has: {', '.join([*present, 'all'])}"
        )
    changed = _changes(trained, data, split) if own else []
    if changed and not allow_change:
        raise ConfigError(
            refusal(changed),
            "restore the data; or evaluate on what is there: --allow-change, or name it: dataset.KEY=VALUE",
        )
    data = as_trained(trained, data)
    parts = {name: getattr(data, name) for name in reversed(present)}
    chosen = list(parts.values()) if split == "all" else [parts[split]]
    collector = _Collector(trained.task.collected)
    values = _evaluate(trained, data, chosen, collector)
    outputs, targets = (torch.cat(each).cpu() for each in zip(*collector.batches, strict=True))
    details = Details()
    if trained.readout.is_comparable:
        details = trained.task.details(outputs, targets, trained.classes)
    by_target = {}
    if len(details.residuals) > 1:
        metrics = choose_metrics(config.metrics, data)
        for place, row in enumerate(details.residuals):
            column = slice(place, place + 1)
            by_target[row.name or f"output {row.output}"] = _of_target(
                metrics, outputs[:, column], targets[:, column]
            )
    notices = [f"{refusal(changed)}; {_CHANGED}"] if changed else []
    if split == "train" and data.label_noise:
        notices.append(data.label_noise)
    return Score(
        split=split,
        dataset=data.name,
        samples=len(targets),
        available=sum(map(len, parts.values())),
        values={f"{split}/{name}": value for name, value in values.items()},
        recorded=_recorded(trained, split) if own and not changed else None,
        same_environment=trained.same_environment,
        by_target=by_target,
        notices=tuple(notices),
        **vars(details),
    )


def _evaluate(
    trained: Trained, data: Data, splits: list[AnySplit], collector: _Collector
) -> dict[str, float]:
    """Loss and metrics over all of ``splits``."""
    config, device = trained.config, trained.device
    options = {"batch_size": config.train.batch_size, "device": device}
    with contextlib.ExitStack() as opened:
        loaders = [
            make_loader(config.loader, data, split=split, seed=None, augment=None, **options)
            for split in splits
        ]
        for loader in loaders:
            if (close := getattr(loader, "close", None)) is not None:
                opened.callback(close)
        return evaluate(
            trained.model,
            trained.criterion(),
            itertools.chain.from_iterable(loader.batches() for loader in loaders),
            {**choose_metrics(config.metrics, data), "": lambda: collector},
            runtime.precision_context(config.train.precision, device),
            trained.readout,
        )


def _of_target(
    metrics: Mapping[str, Callable[[], Any]], outputs: Tensor, targets: Tensor
) -> dict[str, float]:
    """The metrics of one target, (N, 1), that are one value."""
    values = {}
    for name, make in metrics.items():
        metric = make()
        metric.update(outputs, targets)
        if isinstance(value := metric.compute(), float):
            values[name] = value
    return values


def as_trained(trained: Trained, data: Data) -> Data:
    """``data`` with the transform, the statistics and the class numbers of training.

    Raises ConfigError where its samples or targets differ from those of training.
    """
    if data.task != trained.task.name:
        raise ConfigError(
            f"dataset {data.name} is for {data.task}, the model was trained for {trained.task.name}",
            "evaluate it on a dataset for the same task",
        )
    found = describe_raw(data)
    if trained.raw is not None and found is not None and found != trained.raw:
        raise ConfigError(
            f"dataset {data.name} has samples of shape {shown(found)},"
            f" the model was trained on {shown(trained.raw)}",
            "evaluate it on data of the same shape and type",
        )
    data = trained.task.as_trained(data, trained.output_size, trained.classes)
    return replace(trained.prepared(data), transform=trained.transform())


def _changes(trained: Trained, data: Data, split: str) -> list[str]:
    """How the samples to evaluate differ from the run's; ``all`` are compared as the splits of training."""
    if split != "all":
        return trained.changes_of(data, split)
    as_split = build_data(trained.config.dataset, trained.reading)
    return trained.changes_of(as_split, "train", "val", "test")


def _unsplit(dataset: Component) -> Component:
    """The dataset with nothing held out of it, so that samples keep their order, and with its true labels."""
    arguments = dict(dataset.arguments)
    if "test" in DATASETS.signature(dataset.name).names and not arguments.get("test_path"):
        arguments["test"] = 0
    plain = {"val": 0, "folds": None, "fold": None, "label_noise": 0.0}
    return replace(dataset, arguments=arguments, common={**dataset.common, **plain})


def _recorded(trained: Trained, split: str) -> Mapping[str, Any] | None:
    """The values that the run recorded for this split at this checkpoint."""
    for key in ("test", "best", "last"):
        known = trained.record.get(key)
        if isinstance(known, dict) and known.get("step") == trained.step:
            values = {name: value for name, value in known.items() if name.startswith(f"{split}/")}
            if values:
                return values
    return None
