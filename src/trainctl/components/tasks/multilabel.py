"""Multi-label classification: any number of labels a sample, none included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainctl.components.tasks._base import ClassRow, Details, Task, described
from trainctl.errors import ConfigError, did_you_mean
from trainctl.registry import TASKS

_THRESHOLD = 0.5
_SEPARATOR = ";"


@TASKS.register("multilabel")
class Multilabel(Task):
    """Labels: targets are 0 or 1, float32 of shape (N, labels); predictions are probabilities."""

    name = "multilabel"
    targets = "labels (0 or 1)"
    predictions = "probabilities"
    loss = "bce_with_logits"
    loss_targets = ("binary",)
    metrics = ("f1_micro", "f1_macro", "map")
    best = "f1_micro"
    reads_out = True
    needs_output = True
    scales = False
    made_up = "indicators"
    example = ("dataset=synthetic", "++dataset.task=multilabel", "++dataset.outputs=3")

    def __init__(self, thresholds: Mapping[str, float] | float = _THRESHOLD) -> None:
        self.thresholds = thresholds

    def converted(self, where: str, targets: Any) -> Tensor:
        """0 and 1 (N, labels) float32, from numbers of any type and booleans."""
        values = super().converted(where, targets)
        dimensions = targets.ndim if hasattr(targets, "ndim") else values.dim()
        if values.dim() != 2 or dimensions != 2:
            given = described(torch.as_tensor(targets))
            raise ConfigError(
                f"{where} targets are {given}; labels have the shape (N, labels)",
                "give a 0 or 1 for each label; one class a sample is dataset.task=classification",
            )
        odd = (values != 0) & (values != 1)
        if bool(odd.any()):
            row, label = odd.nonzero()[0].tolist()
            raise ConfigError(
                f"{where} target {row + 1} has {float(values[row, label]):g} for label {label};"
                f" labels are 0 or 1 ({described(values)})",
                "use dataset.task=regression for values, classification for one class a sample",
            )
        return values.to(torch.float32)

    def check(self, where: str, targets: Tensor, outputs: int) -> None:
        if targets.shape[1] != outputs:
            raise ConfigError(
                f"{where} targets have {targets.shape[1]} labels, the dataset says {outputs}",
                "correct the number of labels",
            )

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor:
        """Samples with each label, and without: (2, labels)."""
        held = targets.sum(0).to(torch.int64)
        return torch.stack([held, len(targets) - held])

    def relabelled(self, targets: Tensor, outputs: int, change: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Each label there or not is one of two classes."""
        return change(targets.flatten(), 2).view_as(targets)

    def class_names(self, names: Sequence[str], outputs: int) -> tuple[str, ...]:
        return super().class_names(names, outputs) or tuple(map(str, range(outputs)))

    def columns(self, classes: Sequence[str], outputs: int) -> list[str]:
        return ["prediction", *(f"probability_{name}" for name in classes)]

    def cells(self, prediction: Sequence[float], classes: Sequence[str]) -> list[Any]:
        return [_SEPARATOR.join(self._chosen(prediction, classes)), *prediction]

    def fields(self, prediction: Sequence[float], classes: Sequence[str]) -> dict[str, Any]:
        chosen = self._chosen(prediction, classes)
        return {"prediction": chosen, "probabilities": dict(zip(classes, prediction, strict=True))}

    def _chosen(self, prediction: Sequence[float], classes: Sequence[str]) -> list[str]:
        """The labels whose probability is at least their threshold."""
        limits = self.thresholds
        each = limits if isinstance(limits, Mapping) else dict.fromkeys(classes, limits)
        return [name for name, value in zip(classes, prediction, strict=True) if value >= each[name]]

    def with_threshold(self, threshold: str, classes: Sequence[str]) -> Multilabel:
        """One number for all labels, or LABEL=NUMBER,…: then the others keep 0.5."""
        given = f"--threshold {threshold}"
        if "=" not in threshold:
            return Multilabel(_probability(given, threshold))
        limits = dict.fromkeys(classes, _THRESHOLD)
        for word in threshold.split(","):
            name, _, number = word.strip().rpartition("=")
            if name not in limits:
                hint = did_you_mean(name, classes)
                raise ConfigError(
                    f"{given}: there is no label {name!r}", f"{hint}there are: {', '.join(classes)}"
                )
            limits[name] = _probability(given, number)
        return Multilabel(limits)

    def details(self, kept: Tensor, targets: Tensor, classes: Sequence[str]) -> Details:
        """Precision, recall and F1 of each label at a threshold of 0.5."""
        return Details(classes=tuple(_rows(kept.flatten(1) >= _THRESHOLD, targets > 0, classes)))


def _probability(given: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"{given}: must be a number from 0 to 1", "--threshold 0.3, or LABEL=0.3,LABEL=0.6")
    return value


def _rows(predicted: Tensor, targets: Tensor, names: Sequence[str]) -> Iterator[ClassRow]:
    counts = torch.stack([(predicted & targets).sum(0), targets.sum(0), predicted.sum(0)], 1).tolist()
    for name, (hits, held, taken) in zip(names, counts, strict=True):
        yield ClassRow(
            name,
            hits / taken if taken else None,
            hits / held if held else None,
            2 * hits / (held + taken) if held + taken else None,
            held,
        )
