"""What is known of the samples of one shard, and how targets are read from text and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from trainctl.errors import ConfigError

TARGETS = ("label", "labels", "target", "targets", "class", "y")
"""The usual names of targets, in Parquet's columns and in JSON."""
Value = int | float | str
_MARK = "dataset=shards"


@dataclass(frozen=True)
class Wanted:
    """What the config asks of each sample.

    Attributes:
        inputs: members' extensions in tar, columns in Parquet; empty: what there is.
        target: an extension, a column, or a field of the sample's JSON; None: what there is.
        task: auto, classification or regression.
    """

    inputs: tuple[str, ...]
    target: str | None
    task: str


@dataclass(frozen=True)
class Part:
    """The samples of one shard.

    Attributes:
        offsets, sizes: where each sample's input lies in a tar, (N,) int64; in Parquet its row, and 0.
        targets: (N,) int64 or float64; numbers of ``texts`` where there are any.
        texts: the different texts that are targets.
        kind: of the inputs: image or array.
        source: what they are, for people.
        size: of what is read from the disk, in bytes.
    """

    offsets: NDArray[numpy.int64]
    sizes: NDArray[numpy.int64]
    targets: NDArray[Any]
    texts: tuple[str, ...]
    kind: str
    source: str
    size: int

    def __len__(self) -> int:
        return len(self.targets)


def coded(where: str, values: Sequence[Value], task: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Targets as numbers, and the texts that these count where they are texts.

    Raises ConfigError naming the sample for one that does not suit the task, or the others.
    """
    texts = [isinstance(value, str) for value in values]
    if task != "regression" and any(texts):
        if not all(texts):
            odd = texts.index(False)
            raise ConfigError(
                f"{_MARK}: {where}: target {odd + 1} is {values[odd]!r}, others are texts",
                "dataset.target names one",
            )
        names = tuple(sorted(set(map(str, values))))
        number = {name: index for index, name in enumerate(names)}
        return numpy.array([number[str(value)] for value in values], dtype=numpy.int64), names
    whole = task != "regression" and all(isinstance(value, int) for value in values)
    try:
        numbers = numpy.array(values, dtype=numpy.int64 if whole else numpy.float64)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{_MARK}: {where}: a target is no number: {error}") from error
    if task == "classification" and not whole:
        raise ConfigError(f"{_MARK}: {where}: targets are not whole numbers: they name no classes")
    if not numpy.isfinite(numbers).all():
        raise ConfigError(f"{_MARK}: {where}: target {numpy.isfinite(numbers).argmin() + 1} is not finite")
    return numbers, ()


def from_text(where: str, content: bytes, *, numbers: bool) -> Value:
    """The target that a text file holds; a number where it is one, and ``numbers`` count as such."""
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{_MARK}: {where} is no UTF-8 text: {error}") from error
    if not text:
        raise ConfigError(f"{_MARK}: {where} is empty")
    for number in (int, float) if numbers else ():
        try:
            return number(text)
        except ValueError:
            continue
    return text


def from_json(where: str, content: bytes, name: str | None) -> Value:
    """The target that a JSON file holds: the field ``name``, or one of a usual name."""
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"{_MARK}: {where} is damaged: {error}") from error
    if isinstance(found, Mapping):
        names = [name] if name is not None else [each for each in TARGETS if each in found]
        if not names or names[0] not in found:
            raise ConfigError(
                f"{_MARK}: {where} has no {name or 'field with a usual name'}; it has {', '.join(found)}",
                "dataset.target=NAME names it",
            )
        found = found[names[0]]
    if not isinstance(found, int | float | str):
        raise ConfigError(f"{_MARK}: {where}: its target is {found!r}, neither a text nor a number")
    return found
