"""Datasets of torch as splits: map-style ones, whose samples are loaded one by one, and streams.

Shape, type, task and number of classes are found by looking at some samples. Targets are read once and kept;
each sample that is loaded later has to have the same target, so a wrong one is not trained on.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, Subset

from trainctl.data import order
from trainctl.data.inputs import Inputs, OfInputs, Shape, packed, sample_shape
from trainctl.data.pairs import Pairs, same_pairs
from trainctl.data.preprocessing import describe_samples, shown
from trainctl.data.progress import Progress
from trainctl.data.sample_values import are_labels, described, raised_in, same
from trainctl.data.stream import Stream
from trainctl.data.types import Data, Datasets, ItemSplit, Standardize, StreamSplit, is_sampled
from trainctl.data.worker_process import Samples, kept_random_state, seed_sample
from trainctl.errors import ConfigError, TrainctlError

_LOOKED_AT, _SEED = 16, 0
_SAMPLED = 4096
_LONG, _BATCH, _TIMEOUT = 60.0, 64, 600.0
_OWN_RANDOM = "; random numbers of its own, which no seed repeats: no run on it can be repeated exactly"
_DETERMINISTIC = (
    "a sample's target must be the same whenever it is read, and its shape and type those of others"
)


def from_datasets(returned: Any, name: str) -> Data:
    """The data of what the dataset function ``name`` returned: ``Datasets``, or a dataset to train on.

    Raises ConfigError for anything else, and for the first sample that is not like the others.
    """
    given = returned if isinstance(returned, Datasets) else Datasets(returned)
    name = given.name or name
    loads = {
        label: _load(f"dataset {name}: {label}", source, given)
        for label in ("train", "val", "test")
        if (source := getattr(given, label)) is not None or label == "train"
    }
    train = loads["train"]
    for load in loads.values():
        load.look(train)
    splits: dict[str, Any] = {label: load.split() for label, load in loads.items()}
    if given.weights is not None:
        splits["train"] = replace(splits["train"], weights=torch.as_tensor(given.weights))
    first = torch.empty(0) if train.like is None else train.like[0]
    raw = describe_samples(first[None])
    every = [load.targets for load in loads.values() if len(load.targets)]
    classes = tuple(given.classes or _class_names(given.train))
    task, outputs = _task(f"dataset {name}", given, every, classes)
    transform = _transform(given, raw["dtype"])
    which = "uint8 " if isinstance(first, Inputs) else ""
    scaled = f", {which}divided by 255" if given.transform is None and " uint8" in shown(raw) else ""
    named = {"classification": "classes", "multilabel": "labels"}.get(task)
    what = f"{outputs} {named}" if named else f"{task} of {outputs} values"
    if any(is_sampled(split) for split in splits.values() if not isinstance(split, StreamSplit)):
        what += f", as {_SAMPLED:,} evenly spaced targets say: the dataset lists none"
    own = "" if all(load.repeats for load in loads.values()) else _OWN_RANDOM
    return Data(
        name=name,
        task=task,
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        input_shape=_shape(name, first, transform),
        output_size=outputs,
        transform=transform,
        classes=classes,
        note=f"{type(given.train).__name__}: samples {shown(raw)}{scaled}, {what}{own}",
    )


@dataclass
class Load(Pairs):
    """One sample of a dataset by its index, as a tensor; checked against the others and its known target.

    Attributes:
        seconds: what a sample takes.
        sampled: whether ``targets`` are those of some samples, because there are very many; then a sample is
            packed with its target.
    """

    seconds: float = math.inf
    sampled: bool = False
    _copy: Any = None

    def __len__(self) -> int:
        return len(self.source)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_copy": None}

    def __call__(self, index: int) -> Any:
        inputs, target = self.pair(index)
        if self.sampled:
            return packed(inputs, target)
        if not same(target, known := self.targets[index]):
            raise ConfigError(
                f"{self.where}[{index}] has target {target.tolist()}, it was {known.tolist()} before",
                _DETERMINISTIC,
            )
        return inputs

    def pair(self, index: int) -> tuple[Any, Tensor]:
        """Input and target of a sample. Raises ConfigError that names it where it cannot be used."""
        return self.taken(f"{self.where}[{index}]", self._sample(index))

    def split(self) -> ItemSplit:
        return ItemSplit(range(len(self)), self.targets, self, changes=() if self.sampled else None)

    def look(self, train: Pairs) -> None:
        """Read the targets; find the shape and type of samples, which are those of ``train``.

        The random numbers of the process stay as they are.
        """
        if not len(self):
            return
        numbers = list(dict.fromkeys(number * len(self) // _LOOKED_AT for number in range(_LOOKED_AT)))
        with kept_random_state():
            self.like = train.like or self._seeded(numbers[0])
            looked = [self._seeded(number) for number in numbers]
            started = time.perf_counter()
            again = [self._seeded(number) for number in numbers]
            self.seconds = (time.perf_counter() - started) / len(numbers)
            self.repeats = same_pairs(looked, again)
            self.targets = self._read_targets(
                dict(zip(numbers, [target for _, target in looked], strict=True))
            )

    def _read_targets(self, looked: Mapping[int, Tensor]) -> Tensor:
        """All targets: the listed ones where some samples have the same, else read from samples; of very many
        samples, the targets of evenly spaced ones.

        Workers do it where it would take more than a minute here.
        """
        like = next(iter(looked.values()))
        listed = _listed_targets(self.source, len(self), like)
        if listed is not None and all(same(target, listed[at]) for at, target in looked.items()):
            return listed
        if len(self) >= order.LARGE:
            self.sampled = True
            numbers = (number * len(self) // _SAMPLED for number in range(_SAMPLED))
            return torch.stack([self._seeded(number)[1] for number in numbers])
        targets = torch.empty((len(self), *like.shape), dtype=like.dtype)
        progress, at = Progress(f"reading targets of {self.where}", len(self)), 0
        read: Iterator[Tensor] = (self._seeded(number)[1][None] for number in range(len(self)))
        for batch in (
            self._read_by_workers() if self.seconds * len(self) > _LONG and self._can_be_sent() else read
        ):
            targets[at : at + len(batch)] = batch
            at += len(batch)
            progress.update(at)
        return targets

    def _can_be_sent(self) -> bool:
        try:
            Samples(self, None).seal()
        except ConfigError:
            return False
        return True

    def _read_by_workers(self) -> Iterator[Tensor]:
        from trainctl.data.worker_pool import Feed  # only here is it needed

        split = ItemSplit(range(len(self)), torch.empty(0), _Target(self))
        feed = Feed(split, _BATCH, _SEED, workers="auto", prefetch=2, timeout=_TIMEOUT)
        try:
            yield from feed.in_order()
        finally:
            feed.close()

    def _seeded(self, index: int) -> tuple[Tensor, Tensor]:
        seed_sample(_SEED, 0, index)
        return self.pair(index)

    def _sample(self, index: int) -> Any:
        if self._copy is None:
            # What it opens on its first access stays out of the dataset that is sent to workers.
            self._copy = _copied(self.source)
        try:
            return self._copy[index]
        except TrainctlError:
            raise
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ConfigError(
                f"{self.where}[{index}] cannot be loaded: {reason}", raised_in(error)
            ) from error


@dataclass(frozen=True)
class _Target:
    """The target of a sample, for workers."""

    load: Load

    def __call__(self, index: int) -> Tensor:
        return self.load.pair(index)[1]


def _load(where: str, source: Any, given: Datasets) -> Load | Stream:
    """A split to be looked at. Raises ConfigError for what is no dataset of torch."""
    what = type(source).__name__
    if isinstance(source, IterableDataset):
        return Stream(where, source, given.inputs, given.target)
    absent = [name for name in ("__len__", "__getitem__") if not hasattr(source, name)]
    if absent or isinstance(source, Tensor | str | Mapping | Datasets):
        lacks = f", which has no {' and no '.join(absent)}" if absent else ""
        raise ConfigError(
            f"{where} is {described(source)}{lacks}",
            "return a trainctl.data.Data, or what has __len__ and __getitem__:"
            " trainctl.data.Datasets(train=…)",
        )
    try:
        len(source)
    except Exception as error:  # the dataset's own code
        raise ConfigError(
            f"{where} ({what}) has no length: {type(error).__name__}: {error}", raised_in(error)
        ) from error
    return Load(where, source, given.inputs, given.target)


def _copied(source: Any) -> Any:
    copied = copy.copy(source)
    if isinstance(copied, Subset):
        copied.dataset = _copied(copied.dataset)
    return copied


def _listed_targets(source: Any, length: int, like: Tensor) -> Tensor | None:
    """The ``targets`` that a dataset, or the one it is a part of, lists; None where it does not."""
    if isinstance(source, Subset):
        whole = _listed_targets(source.dataset, len(source.dataset), like)  # type: ignore[arg-type]
        return None if whole is None else whole[torch.as_tensor(list(source.indices), dtype=torch.int64)]
    listed = getattr(source, "targets", None)
    try:
        values = torch.as_tensor(listed, dtype=like.dtype)
    except (TypeError, ValueError, RuntimeError):
        return None
    return values.cpu() if values.shape == (length, *like.shape) else None


def _class_names(source: Any) -> Sequence[str]:
    while isinstance(source, Subset):
        source = source.dataset
    names = getattr(source, "classes", None)
    if isinstance(names, list | tuple) and all(isinstance(each, str) for each in names):
        return tuple(names)
    return ()


def _task(where: str, given: Datasets, targets: Sequence[Tensor], classes: Sequence[str]) -> tuple[str, int]:
    """Task and number of outputs. Raises ConfigError where the targets do not tell."""
    if not targets:
        return given.task or "classification", given.output_size or max(1, len(classes))
    first = targets[0][0]
    values, count = first.is_floating_point() or first.is_complex(), first.numel()
    labels = all(map(are_labels, targets))
    task = given.task or ("multilabel" if labels else "regression" if values else "classification")
    if given.task is None and not values and count != 1 and not labels:
        raise ConfigError(
            f"{where}: targets are {shown(describe_samples(first[None]))}: neither one class nor floats",
            "give one class number a sample, or floats; or say what they are: Datasets(task='multilabel')",
        )
    if given.output_size is not None or task != "classification" or values or count != 1:
        return task, given.output_size or max(1, count)
    outputs = max(len(classes), *(int(each.to(torch.int64).max()) + 1 for each in targets))
    samples = sum(map(len, targets))
    if outputs > max(samples, len(classes)):
        raise ConfigError(
            f"{where}: a target is {outputs - 1}, but {samples} samples cannot have {outputs} classes",
            "number the classes from 0; or say how many there are: Datasets(output_size=N)",
        )
    return task, outputs


def _transform(given: Datasets, dtype: Any) -> nn.Module:
    """What the dataset asks for, or what makes numbers of a model's kind of each input."""
    if isinstance(dtype, Mapping):
        return OfInputs(given.transform or {name: _transform(given, each) for name, each in dtype.items()})
    if given.transform is not None:
        return given.transform
    if dtype == "uint8":
        return Standardize(255.0)
    return Standardize() if dtype in ("float64", "float16", "bfloat16") else nn.Identity()


def _shape(name: str, sample: Any, transform: nn.Module) -> Shape:
    """The shape of a sample after ``transform``."""
    try:
        return sample_shape(transform(sample[None]))
    except Exception as error:  # the transform is the user's own
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        given = shown(describe_samples(sample[None]), "1")
        raise ConfigError(f"dataset {name}: its transform does not take samples {given}: {reason}") from error
