"""The loss of the task."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from trainctl.errors import ConfigError
from trainctl.registry import LOSSES, TASKS, Positive, Probability


def loss_name(name: str, task: str) -> str:
    """The loss that ``name`` stands for on data of ``task``: itself, or for ``auto`` the task's own."""
    of_task: Any = TASKS.load(task)
    return str(of_task.loss) if name == "auto" else name


@LOSSES.register("auto")
def auto(
    task: str,
    class_counts: Tensor | None = None,
    class_weights: list[Positive] | Literal["balanced"] | None = None,
    label_smoothing: Probability = 0.0,
) -> nn.Module:
    """The loss of the data's task: cross_entropy for classes, mse for values, bce_with_logits for labels.

    Args:
        class_weights: one weight a class, or balanced: the rarer a class, the more it counts.
        label_smoothing: share of each target spread over all classes.

    Raises ConfigError for a setting that the task's loss does not have.
    """
    name = loss_name("auto", task)
    given: dict[str, Any] = {"class_weights": class_weights, "label_smoothing": label_smoothing or None}
    asked = {key: value for key, value in given.items() if value is not None}
    takes = {parameter.name for parameter in LOSSES.signature(name).parameters}
    if unknown := [key for key in asked if key not in takes]:
        raise ConfigError(
            f"loss.{unknown[0]}={asked[unknown[0]]}: the loss of {task} is {name}, which has no {unknown[0]}",
            "leave it out, or choose a loss that has it: loss=NAME",
        )
    supplied = {"class_counts": class_counts, "task": task}
    asked |= {key: value for key, value in supplied.items() if key in LOSSES.takes(name)}
    loss: nn.Module = LOSSES.load(name)(**asked)
    return loss
