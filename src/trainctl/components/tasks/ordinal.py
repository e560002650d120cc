"""Ordinal regression: classes in an order, such as grades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from trainctl.components.metrics._base import Metric
from trainctl.components.tasks._base import class_names, described, task_of, with_each_target, with_targets
from trainctl.components.tasks.classification import Classification
from trainctl.components.tasks.multilabel import Multilabel
from trainctl.data.types import Data
from trainctl.errors import ConfigError
from trainctl.registry import TASKS


@TASKS.register("ordinal")
class Ordinal(Classification):
    """Classes in an order: a model gives a logit for each but the first, that the class is that one or above.

    So targets are float32 (N, classes - 1), 1 up to the class and 0 above. Metrics, ``eval`` and predictions
    are of classes, whose probabilities are the differences of neighbours; where the model has a higher class
    likelier than a lower one, the one between has none (Frank and Hall, A Simple Approach to Ordinal
    Classification, 2001).

    Args:
        order: the classes, the lowest first; null where their names are numbers.
    """

    name = "ordinal"
    targets = "classes in an order (0 or 1 for each but the lowest)"
    loss = "bce_with_logits"
    loss_targets = ("binary",)
    metrics = ("ordinal_mae", "accuracy")
    metric_tasks = ("ordinal", "classification")
    best = "ordinal_mae"
    reads_out = True
    needs_output = True
    scales = False
    class_numbers = False
    ordered = True
    adopts = "classification"
    example = ("dataset=digits", "++dataset.as_task=ordinal")

    def __init__(self, order: list[str] | None = None) -> None:
        self.order = order
        self.made_up_classes: Sequence[str] = order or ("0", "1", "2")

    def adopted(self, data: Data) -> Data:
        where = f"dataset.as_task={self.name}: dataset {data.name}"
        if not task_of(data).class_numbers:
            raise ConfigError(
                f"{where} has {task_of(data).targets}, not classes",
                "of a column of whole numbers dataset.task=classification makes classes",
            )
        data = with_targets(data)
        names = class_names(data)
        order = self.order or sorted(names, key=_number(where, names))
        if sorted(order) != sorted(names):
            raise ConfigError(
                f"{where} has the classes {', '.join(names)}; the order names {', '.join(order)}",
                "name each class once, the lowest first",
            )
        if len(order) < 2:
            raise ConfigError(f"{where} has one class", "give data with two classes or more")
        return _in_order(data, names, order)

    def converted(self, where: str, targets: Any) -> Tensor:
        """0 and 1 (N, classes - 1) float32."""
        return Multilabel().converted(where, targets)

    def check(self, where: str, targets: Tensor, outputs: int) -> None:
        Multilabel().check(where, targets, outputs)
        if bool((odd := targets.diff(dim=1) > 0).any()):
            row = int(odd.any(1).nonzero()[0])
            raise ConfigError(
                f"{where} target {row + 1} has a 1 behind a 0 ({described(targets)})",
                "a 1 for each class up to the sample's, the lowest left out, then 0",
            )

    def class_names(self, names: Sequence[str], outputs: int) -> tuple[str, ...]:
        return super().class_names(names, outputs + 1)

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor:
        """Samples at each class or above, and below it: (2, classes - 1)."""
        return Multilabel().class_counts(targets, outputs)

    def relabelled(self, targets: Tensor, outputs: int, change: Callable[[Tensor, int], Tensor]) -> Tensor:
        return _levels(change(_numbers(targets), outputs + 1), outputs + 1)

    def as_trained(self, data: Data, outputs: int, classes: Sequence[str]) -> Data:
        own = class_names(data)
        if foreign := [name for name in own if name not in classes]:
            raise ConfigError(
                f"dataset {data.name} has the class {foreign[0]}, which the model was not trained on",
                f"its classes are: {', '.join(classes)}",
            )
        numbered = with_each_target(data, _numbers)
        return _in_order(numbered, own, classes)

    def metric(self, metric: Metric) -> Metric:
        return _OfClasses(metric)

    def predict(self, outputs: Tensor) -> Tensor:
        """The probabilities of the classes, (N, classes), from those of each or above, (N, classes - 1)."""
        within = pad(pad(outputs, (1, 0), value=1.0), (0, 1))
        each = (within[:, :-1] - within[:, 1:]).clamp(min=0)
        return each / each.sum(1, keepdim=True)

    def collected(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(outputs).argmax(1), _numbers(targets)


class _OfClasses:
    """A metric of classes and their numbers, which gets the logarithms of their probabilities."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.metric.update(Ordinal().predict(outputs).log(), _numbers(targets))

    def merge(self, other: _OfClasses) -> None:
        self.metric.merge(other.metric)  # type: ignore[attr-defined]

    def compute(self) -> Any:
        return self.metric.compute()


def _numbers(targets: Tensor) -> Tensor:
    """The class numbers (N,) of targets (N, classes - 1)."""
    return targets.sum(1).to(torch.int64)


def _levels(numbers: Tensor, classes: int) -> Tensor:
    """The targets (N, classes - 1) of class numbers (N,)."""
    return (numbers[:, None] >= torch.arange(1, classes, device=numbers.device)).to(torch.float32)


def _in_order(data: Data, names: Sequence[str], order: Sequence[str]) -> Data:
    """``data``, whose targets are numbers of ``names``, as data of classes in an order."""
    number = torch.tensor([list(order).index(name) for name in names])
    return with_each_target(
        data,
        lambda targets: _levels(number[targets], len(order)),
        task=Ordinal.name,
        output_size=len(order) - 1,
        classes=tuple(order),
        note="; ".join(filter(None, [data.note, f"classes in the order {' < '.join(order)}"])),
    )


def _number(where: str, names: Sequence[str]) -> Any:
    """The key that sorts names of numbers. Raises ConfigError where one is none."""
    for name in names:
        try:
            float(name)
        except ValueError as error:
            raise ConfigError(
                f"{where} has the class {name}, and nothing says the order of its classes",
                f"'dataset.as_task={{ordinal: {{order: [{', '.join(names)}]}}}}', the lowest first",
            ) from error
    return float
