"""Classification: a target is the number of one class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trainctl.components.tasks._base import (
    ClassRow,
    Details,
    Task,
    as_tensor,
    class_names,
    described,
    with_each_target,
)
from trainctl.data.types import Data
from trainctl.errors import ConfigError
from trainctl.registry import TASKS
from trainctl.registry.constraints import some


@TASKS.register("classification")
class Classification(Task):
    """One class a sample: targets are int64 class numbers of shape (N,)."""

    name = "classification"
    targets = "class numbers"
    predictions = "probabilities"
    loss = "cross_entropy"
    loss_targets = ("class",)
    metrics: tuple[str, ...] = ("accuracy",)
    best = "accuracy"
    class_numbers = True

    def converted(self, where: str, targets: Any) -> Tensor:
        """Class numbers (N,) int64, from whole numbers of any type, booleans, and (N, 1)."""
        values = as_tensor(where, targets)
        if values.dim() == 2 and values.shape[1] == 1:
            values = values.squeeze(1)
        numbers = values.to(torch.int64) if not values.is_complex() else values.real.to(torch.int64)
        if values.dim() != 1 or not bool((numbers.to(values.dtype) == values).all()):
            raise ConfigError(
                f"{where} targets are {described(values)}; classes are whole numbers of shape (N,)",
                "give one class number a sample, or use dataset.task=regression for values",
            )
        return numbers

    def check(self, where: str, targets: Tensor, outputs: int) -> None:
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= outputs:
            raise ConfigError(
                f"{where} target {low if low < 0 else high} is outside its {outputs} classes"
                f" (0 to {outputs - 1})",
                "number the classes from 0, or correct the number of classes",
            )

    def class_names(self, names: Sequence[str], outputs: int) -> tuple[str, ...]:
        return tuple(names) if len(set(names)) == outputs else tuple(map(str, range(outputs)))

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor:
        return torch.bincount(targets, minlength=outputs)

    def relabelled(self, targets: Tensor, outputs: int, change: Callable[[Tensor, int], Tensor]) -> Tensor:
        return change(targets, outputs)

    def as_trained(self, data: Data, outputs: int, classes: Sequence[str]) -> Data:
        """``data`` with the class numbers of the model; it may lack some of the classes."""
        own = class_names(data)
        foreign = [name for name in own if name not in classes]
        if foreign:
            raise ConfigError(
                f"dataset {data.name} has {some(foreign)}, which the model was not trained on",
                f"its classes are: {some(classes)}",
            )
        if own == tuple(classes):
            return data
        number = torch.tensor([list(classes).index(name) for name in own])
        return with_each_target(
            data, lambda targets: number[targets], output_size=outputs, classes=tuple(classes)
        )

    def predict(self, outputs: Tensor) -> Tensor:
        """The softmax; for outputs that are log-probabilities it is the probabilities themselves."""
        return outputs.softmax(1)

    def columns(self, classes: Sequence[str], outputs: int) -> list[str]:
        return ["prediction", *(f"probability_{name}" for name in classes)]

    def cells(self, prediction: Sequence[float], classes: Sequence[str]) -> list[Any]:
        return [classes[prediction.index(max(prediction))], *prediction]

    def fields(self, prediction: Sequence[float], classes: Sequence[str]) -> dict[str, Any]:
        best, *_ = self.cells(prediction, classes)
        return {"prediction": best, "probabilities": dict(zip(classes, prediction, strict=True))}

    def kept(self, outputs: Tensor) -> Tensor:
        """The predicted class: the outputs of a whole split would fill the memory."""
        return outputs.argmax(1)

    def details(self, kept: Tensor, targets: Tensor, classes: Sequence[str]) -> Details:
        confusion = count_confusion(kept, targets, len(classes))
        return Details(
            classes=tuple(class_rows(confusion, classes)), confusion=tuple(map(tuple, confusion.tolist()))
        )


def count_confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Samples by true class (row) and predicted class (column), (classes, classes) int64."""
    return torch.bincount(targets * classes + predicted, minlength=classes * classes).view(classes, classes)


def class_rows(confusion: Tensor, names: Sequence[str]) -> Iterator[ClassRow]:
    """Precision, recall and F1 of each class (van Rijsbergen, Information Retrieval, 1979)."""
    right = confusion.diagonal().tolist()
    support, predicted = confusion.sum(1).tolist(), confusion.sum(0).tolist()
    for name, hits, held, taken in zip(names, right, support, predicted, strict=True):
        yield ClassRow(
            name,
            hits / taken if taken else None,
            hits / held if held else None,
            2 * hits / (held + taken) if held + taken else None,
            held,
        )
