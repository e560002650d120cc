"""Semantic segmentation: the class of each pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trainctl.components.tasks._base import (
    ClassRow,
    Details,
    RegionRow,
    Task,
    WithTargets,
    as_tensor,
    class_names,
    described,
    with_each_target,
)
from trainctl.data.inputs import Shape
from trainctl.data.types import IGNORED, Data
from trainctl.errors import ConfigError
from trainctl.registry import TASKS
from trainctl.registry.protocols import Batch, Loader

IGNORE_INDEX = -100
"""What a batch has for an ignored pixel, as torch's losses want it."""


@TASKS.register("segmentation")
class Segmentation(Task):
    """One class a pixel: targets are masks, uint8 of shape (N, height, width), in which 255 counts nowhere.

    A model gives (N, classes, height, width). Batches have int64 targets, -100 for a pixel that is ignored.
    """

    name = "segmentation"
    targets = "masks of class numbers"
    predictions = "probabilities"
    loss = "cross_entropy"
    loss_targets = ("class",)
    metrics = ("miou",)
    best = "miou"
    masks = True
    example = (
        "dataset=shapes", "++dataset.samples=96", "++dataset.test_samples=24", "++dataset.size=12",
        "model=unet", "++model.widths=[4,8]",
    )  # fmt: skip

    def converted(self, where: str, targets: Any) -> Tensor:
        """Masks (N, H, W) uint8, from whole numbers of any type and (N, 1, H, W); -100, too, is ignored."""
        values = as_tensor(where, targets)
        if values.dim() == 4 and values.shape[1] == 1:
            values = values.squeeze(1)
        if values.dim() != 3 or values.is_complex():
            colours = values.dim() == 4 and 3 in (values.shape[1], values.shape[-1])
            raise ConfigError(
                f"{where} targets are {described(values)}; masks are whole numbers, (N, height, width)",
                "give the class number of each pixel, not its colour"
                if colours
                else f"give the class number of each pixel, {IGNORED} where none counts",
            )
        if values.dtype == torch.uint8:
            return values
        values = torch.where(values == IGNORE_INDEX, IGNORED, values)
        masks = values.clamp(0, IGNORED).to(torch.uint8)
        odd = masks.to(values.dtype) != values
        if bool(odd.any()):
            mask, row, column = odd.nonzero()[0].tolist()
            raise ConfigError(
                f"{where} mask {mask + 1} has {values[mask, row, column].item():g} at row {row + 1}, column"
                f" {column + 1}; masks have whole numbers from 0 to {IGNORED - 1}",
                f"number the classes from 0; {IGNORED} and {IGNORE_INDEX} ignore a pixel",
            )
        return masks

    def check(self, where: str, targets: Tensor, outputs: int) -> None:
        if outputs > IGNORED:
            raise ConfigError(f"{where}: {outputs} classes; masks have at most {IGNORED}")
        counted = targets != IGNORED
        if not bool(counted.any()):
            raise ConfigError(
                f"{where} masks have only ignored pixels ({IGNORED})", "give some pixels a class"
            )
        beyond = counted & (targets >= outputs)
        if bool(beyond.any()):
            mask, row, column = beyond.nonzero()[0].tolist()
            raise ConfigError(
                f"{where} mask {mask + 1} has class {int(targets[mask, row, column])} at row {row + 1},"
                f" column {column + 1}; there are {outputs} classes (0 to {outputs - 1})",
                f"correct the number of classes; {IGNORED} ignores a pixel",
            )

    def check_inputs(self, where: str, targets: Tensor, shape: Shape) -> None:
        size = tuple(targets.shape[1:])
        if isinstance(shape, dict) or tuple(shape[1:]) != size:
            raise ConfigError(
                f"{where} masks have {size} pixels, the inputs have shape {shape}",
                "a mask must have the height and width of its image, (channels, height, width)",
            )

    def check_loss(self, loss: str, criterion: Any, data: Data) -> None:
        splits = [split for split in (data.train, data.val, data.test) if split is not None]
        ignored = any(bool((split.targets == IGNORED).any()) for split in splits)
        if ignored and getattr(criterion, "ignore_index", None) != IGNORE_INDEX:
            raise ConfigError(
                f"loss={loss} has no ignore_index of {IGNORE_INDEX}, and some pixels are to be ignored",
                "use loss=cross_entropy",
            )

    def loader(self, loader: Loader) -> Loader:
        return WithTargets(loader, _pixels)

    def class_names(self, names: Sequence[str], outputs: int) -> tuple[str, ...]:
        return super().class_names(names, outputs) or tuple(map(str, range(outputs)))

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor:
        """Pixels of each class."""
        counts = torch.zeros(IGNORED + 1, dtype=torch.int64)
        for mask in targets:
            counts += torch.bincount(mask.flatten(), minlength=IGNORED + 1)
        return counts[:outputs]

    def relabelled(self, targets: Tensor, outputs: int, change: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Pixels that are ignored stay so."""
        noisy = targets.clone()
        for mask in noisy:
            counted = mask != IGNORED
            mask[counted] = change(mask[counted], outputs)
        return noisy

    def as_trained(self, data: Data, outputs: int, classes: Sequence[str]) -> Data:
        """``data`` with the class numbers of the model; it may lack some of the classes."""
        own = class_names(data)
        if foreign := [name for name in own if name not in classes]:
            raise ConfigError(
                f"dataset {data.name} has the class {foreign[0]}, which the model was not trained on",
                f"its classes are: {', '.join(classes)}",
            )
        number = torch.full((IGNORED + 1,), IGNORED, dtype=torch.uint8)
        number[: len(own)] = torch.tensor([list(classes).index(name) for name in own], dtype=torch.uint8)
        return with_each_target(
            data, lambda targets: number[targets.int()], output_size=outputs, classes=tuple(classes)
        )

    def predict(self, outputs: Tensor) -> Tensor:
        """The probabilities of the classes at each pixel, (N, classes, height, width)."""
        return outputs.softmax(1)

    def collected(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The confusions of each image, (N, classes · classes): the pixels of a split would fill memory."""
        classes, counted = outputs.shape[1], (targets >= 0).flatten(1)
        pairs = (targets.clamp(min=0) * classes + outputs.argmax(1)).flatten(1)
        confusions = torch.zeros(len(outputs), classes * classes, dtype=torch.int64, device=outputs.device)
        return confusions.scatter_add_(1, pairs, counted.to(torch.int64)), targets.flatten(1)[:, :0]

    def details(self, kept: Tensor, targets: Tensor, classes: Sequence[str]) -> Details:
        confusion = kept.sum(0).view(len(classes), len(classes))
        return Details(
            classes=tuple(_rows(confusion, classes)),
            confusion=tuple(map(tuple, confusion.tolist())),
            counted="pixels",
        )


def _rows(confusion: Tensor, names: Sequence[str]) -> Iterator[ClassRow]:
    right = confusion.diagonal().tolist()
    support, predicted = confusion.sum(1).tolist(), confusion.sum(0).tolist()
    for name, hits, held, taken in zip(names, right, support, predicted, strict=True):
        both = held + taken
        yield RegionRow(
            name,
            hits / taken if taken else None,
            hits / held if held else None,
            2 * hits / both if both else None,
            held,
            hits / (both - hits) if both else None,
        )


def _pixels(batch: Batch) -> Tensor:
    """Its masks in int64, with ``IGNORE_INDEX`` where a pixel counts nowhere."""
    masks = batch.targets.to(torch.int64)
    return masks.masked_fill_(masks == IGNORED, IGNORE_INDEX)
