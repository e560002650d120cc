"""The data of a run: its splits, and how validation data is held out of training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.data.inputs import Shape
from trainctl.data.order import Chunks, Order, Permutation
from trainctl.data.readout import Readout
from trainctl.errors import ConfigError


@dataclass(frozen=True)
class Split:
    """Raw samples and their targets, first dimension N in both.

    ``inputs`` keep their stored type (uint8 images stay uint8); ``targets`` are int64 class numbers of
    shape (N,) for classification, and values or labels of shape (N, outputs) otherwise, which become float32
    when they have been scaled. ``weights``, (N,), say how often training draws a sample where
    ``dataset.sampling=weighted``.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        """Data is not trained: it has no gradient. Raises ConfigError for tensors without rows to take."""
        for name, tensor in vars(self).items():
            if isinstance(tensor, Tensor) and (tensor.layout != torch.strided or tensor.is_nested):
                raise ConfigError(
                    f"{name} of a dataset must be a dense tensor", "tensor.to_dense() makes one"
                )
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                object.__setattr__(self, name, tensor.detach())

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Tensor | slice) -> Split:
        return Split(self.inputs[index], self.targets[index], _some(self.weights, index))

    def select(self, index: Tensor) -> Split:
        """The samples with these numbers, in this order."""
        return self[index]

    def to(self, device: torch.device) -> Split:
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


@dataclass(frozen=True)
class ItemSplit:
    """Samples that are loaded one by one, because together they do not fit into memory.

    ``load`` turns an item (a path, a row number) into one raw sample without the batch dimension, of the same
    shape and type for every item. It is called in worker processes, so it and the items must be picklable:
    a function of a module, or an instance of a module's class. (seed, epoch, sample) seed the random numbers
    that it draws from Python, NumPy or torch. ``targets`` and ``weights`` are whole, as in :class:`Split`.

    Where reading at random would be slow, ``chunks`` are the runs of samples that are stored together, and
    the order keeps them together. ``load`` may then have a method ``ahead(runs)``, which begins to fetch the
    runs of these numbers, and does not wait for them.

    Where ``changes`` is not None, ``targets`` are those of some samples, and ``load`` gives each sample
    packed with its own (:func:`trainctl.data.inputs.packed`), which ``changes`` prepare.
    """

    items: Sequence[Any]
    targets: Tensor
    load: Callable[[Any], Tensor]
    weights: Tensor | None = None
    chunks: Chunks | None = None
    changes: tuple[Callable[[Tensor], Tensor], ...] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def select(self, index: Tensor) -> ItemSplit:
        """The samples with these numbers, in this order, without loading them."""
        items: Sequence[Any]
        if isinstance(self.items, range | _Rows):
            items = _Rows(self.items, index)
        else:
            items = [self.items[number] for number in index.tolist()]
        chunks = self.chunks and self.chunks.select(index)
        targets = self.targets if is_sampled(self) else self.targets[index]
        return ItemSplit(items, targets, self.load, _some(self.weights, index), chunks, self.changes)


@dataclass(frozen=True)
class StreamSplit:
    """Samples that come one after another in an order of their own, and cannot be asked for by number.

    Attributes:
        load: reads them, see :class:`trainctl.data.stream.Stream`.
        targets: of the first samples; all others come with their samples.
        length: samples of an epoch, which ends earlier where the stream does; None: where the stream does.
        changes: what has been done with ``targets``, and is done with each batch's.
    """

    load: Any
    targets: Tensor
    length: int | None = None
    changes: tuple[Callable[[Tensor], Tensor], ...] = ()
    weights: Tensor | None = None

    def __len__(self) -> int:
        return sys.maxsize if self.length is None else self.length

    def select(self, index: Any) -> StreamSplit:
        raise ConfigError(
            f"{self.load.where} is an IterableDataset: its samples have no numbers to choose them by",
            "leave out train.overfit_batches and dataset.folds; dataset.limit=N takes the first N",
        )


class _Rows(Sequence[int]):
    """Some of many row numbers, at most 8 bytes each: a list takes five times that."""

    def __init__(self, rows: range | _Rows, index: Tensor) -> None:
        if isinstance(rows, _Rows):
            self._rows: Tensor = rows._rows[index]
        else:
            small = not len(rows) or max(abs(rows[0]), abs(rows[-1])) < 2**31
            self._rows = (index * rows.step + rows.start).to(torch.int32 if small else torch.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._rows[place].tolist()


class _Drawn(Sequence[Any]):
    """The items at some places of a computed order: they take no memory of their number."""

    def __init__(self, items: Sequence[Any], order: Order, places: range) -> None:
        self._items, self._order, self._places = items, order, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        return self._items[int(self._order[torch.tensor([self._places[place]])])]


def _some(weights: Tensor | None, index: Tensor | slice) -> Tensor | None:
    return None if weights is None else torch.as_tensor(weights)[index]


IGNORED = 255
"""The class of a pixel of a mask that counts nowhere, as in Pascal VOC; classes are 0 to 254."""

AnySplit = Split | ItemSplit | StreamSplit
"""Samples in memory, samples loaded one by one, or samples as they come."""


def is_sampled(split: Any) -> bool:
    """Whether ``targets`` of a split are some of all: those of a batch come with its samples."""
    return getattr(split, "changes", None) is not None


def with_changed_targets(split: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``split`` with other targets: all of them, or those that are known, and each batch's as it comes."""
    more = {"changes": (*split.changes, change)} if is_sampled(split) else {}
    return replace(split, targets=change(split.targets), **more)


def targets_of_batch(split: ItemSplit | StreamSplit, targets: Tensor) -> Tensor:
    """The targets of a batch of a sampled split, (N, …), changed as the known ones were."""
    for change in split.changes or ():
        targets = change(targets)
    return targets


@dataclass(frozen=True)
class Data:
    """The splits of a dataset and their properties.

    Attributes:
        task: a name in the registry ``TASKS``.
        train, val, test: the splits; ``val`` is None until :func:`hold_out` makes it, ``test`` may be None.
        input_shape: one sample's shape after ``transform``, without the batch dimension; of several inputs by
            their names.
        output_size: number of classes, of labels, or of values to predict.
        transform: turns a raw batch into the model's input, on the device, for the whole batch at once.
        fit: makes ``transform`` from the training split, after validation data has been held out of it; None
            if the transform has no statistics.
        classes: the names of classes, labels or values, by number; empty where they have none.
        note: one line on the source of the data, for the header and the log.
        warnings: a line for each thing that may be wrong with the data.
        report: a line for each column of a table on how it was taken, for the log.
        label_noise: a line on training labels that ``dataset.label_noise`` changed; empty: none was to be.
        reading: how raw samples are read from a file, plain JSON values that are stored with the run; empty
            if their shape and type are enough.
        readout: how targets were prepared for the loss, and outputs are read; None until they are.
        fingerprint: what tells it from other data, see :func:`trainctl.data.fingerprint.fingerprint`; empty
            until validation data is held out.
    """

    name: str
    task: str
    train: AnySplit
    test: AnySplit | None
    input_shape: Shape
    output_size: int
    transform: nn.Module
    val: AnySplit | None = None
    fit: Callable[[Any], nn.Module] | None = None
    classes: tuple[str, ...] = ()
    note: str = ""
    warnings: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    label_noise: str = ""
    reading: Mapping[str, Any] = field(default_factory=dict)
    readout: Readout | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, AnySplit]:
        """The splits that there are, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}


@dataclass(frozen=True)
class Datasets:
    """Splits that are map-style datasets of torch; what a ``Data`` holds beside them is found in samples.

    A split is any object with ``__len__`` and ``__getitem__(index)``. A sample is ``(input, target)``, or a
    dictionary with an entry for each: the target is called ``target``, ``targets``, ``y``, ``label`` or
    ``labels``. Inputs are tensors, arrays of NumPy or images of PIL (RGB or L), of one shape and type; a
    tuple or a dictionary holds several, which the model's ``forward`` gets by position or by name.
    Targets are numbers, tensors or arrays, whole numbers for classes and floats for values.

    Attributes:
        train, val, test: the splits; without ``val`` it is held out of ``train``.
        name: of the data; None: the name that the function is registered under.
        task: a name in the registry ``TASKS``; None: classification for whole numbers, regression for floats.
        output_size: number of classes, or of values to predict; None counts them.
        classes: the classes' names, by number; empty: those of ``train.classes``, if it has them.
        transform: as in ``Data``; None: uint8 is divided by 255, other floats become float32.
        inputs: the entries of a dictionary that are inputs; empty: all but the target.
        target: the entry that is the target; empty: see above.
        weights: how often each sample of ``train`` is drawn where ``dataset.sampling=weighted``.
    """

    train: Any
    val: Any = None
    test: Any = None
    name: str | None = None
    task: str | None = None
    output_size: int | None = None
    classes: Sequence[str] = ()
    transform: nn.Module | None = None
    inputs: Sequence[str] = ()
    target: str = ""
    weights: Any = None


class Standardize(nn.Module):
    """``(inputs / scale - mean) / std`` in float32, as one multiplication and one addition.

    Args:
        scale: the largest raw value (255 for uint8 images), so that ``mean`` and ``std`` are in [0, 1].

    Attributes:
        row_wise: each sample's output depends on that sample alone, and on nothing that changes: a split may
            be transformed once, as a whole. A transform that does not say so is applied batch by batch.
    """

    row_wise = True

    def __init__(self, scale: float = 1.0, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.factor = 1.0 / (scale * std)
        self.offset = -mean / std

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs.to(torch.float32) * self.factor
        return outputs.add_(self.offset) if self.offset else outputs


def hold_out(data: Data, val: float | int, split_seed: int) -> Data:
    """Hold ``val`` samples out of training, chosen by ``split_seed``; see :func:`split_rows`.

    The choice does not depend on the run's ``seed``, so that runs with different seeds are ranked on the
    same samples.
    """
    if not val or isinstance(data.train, StreamSplit):
        return data  # the numbers of all samples may be too many to list
    if is_sampled(data.train) and isinstance(data.train, ItemSplit):
        total = len(data.train)
        count = val if isinstance(val, int) else round(val * total)
        if not 0 < count < total:
            raise ConfigError(f"dataset.val={val}: holds out {count} of {total} samples", "hold out fewer")
        drawn = Permutation(total, split_seed)
        own, others = (
            replace(data.train, items=_Drawn(data.train.items, drawn, part))
            for part in (range(count, total), range(count))
        )
        return replace(data, train=own, val=others)
    kept, held = split_rows(len(data.train), val, split_seed, "val", getattr(data.train, "chunks", None))
    return data if held is None else replace(data, train=data.train.select(kept), val=data.train.select(held))


def hold_out_fold(data: Data, folds: int, fold: int, split_seed: int, groups: Tensor | None) -> Data:
    """Hold the part ``fold``, from 0, of ``folds`` equal parts of the training samples out of it.

    Every sample is in one part; of each group, such as a class, the parts have the same number or one more.
    """
    total = len(data.train)
    if total < folds:
        raise ConfigError(f"dataset.folds={folds}: {total} samples cannot be in {folds} parts", "use fewer")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(split_seed))
    note = f"val is fold {fold} of 0 to {folds - 1}"
    if groups is not None:
        order = order[torch.argsort(groups[order], stable=True)]
        rare = int(((counts := torch.bincount(groups)) < folds).logical_and(counts > 0).sum())
        note += f", {rare} classes have fewer samples than there are folds" if rare else ""
    held = torch.zeros(total, dtype=torch.bool)
    held[order[fold::folds]] = True
    parts = (data.train.select(each.nonzero().squeeze(1)) for each in (~held, held))
    return replace(data, train=next(parts), val=next(parts), note="; ".join(filter(None, (data.note, note))))


def split_rows(
    total: int, amount: float | int, seed: int, key: str = "test", chunks: Chunks | None = None
) -> tuple[Tensor, Tensor | None]:
    """Numbers of the samples to keep, and of ``amount`` (a count, or a fraction below 1) to hold out, sorted.

    The second is None for an amount of 0. Of ``chunks`` whole ones are held out, and a part of one more.
    Raises ConfigError naming ``dataset.KEY`` where one is empty.
    """
    count = amount if isinstance(amount, int) else round(amount * total)
    if not amount:
        return torch.arange(total), None
    if not 0 < count < total:
        raise ConfigError(
            f"dataset.{key}={amount}: holds out {count} of {total} samples",
            f"dataset.{key}={max(1, total // 10)} holds out so many, dataset.{key}=0 none"
            if total > 1
            else f"give more data, or hold out none: dataset.{key}=0",
        )
    if chunks is not None:
        return chunks.hold_out(count, seed)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    # Sorted, so that selecting is one pass through memory and datasets keep their order.
    return order[count:].sort().values, order[:count].sort().values


def limited(data: Data, limit: int | None) -> Data:
    """At most ``limit`` samples of each split, evenly spread over it; all of them for None.

    Spread, because the first samples of data sorted by class have one class; of a stream the first ones.
    """
    if limit is None:
        return data

    splits: dict[str, Any] = {
        name: replace(split, length=limit)
        if isinstance(split, StreamSplit)
        else split.select(torch.arange(limit) * len(split) // limit)
        for name, split in data.splits.items()
        if len(split) > limit
    }
    return replace(data, **splits)
