"""Raw samples from files, a batch at a time: what ``predict`` reads. No file needs to fit into memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from trainctl.errors import ConfigError, nearest


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of a file.

    Attributes:
        names: what each is called: the number of its row, or its file.
        inputs: the raw samples that could be read, (M, …) in the stored type.
        errors: what is wrong with the others, by place in ``names``.
    """

    names: tuple[int | str, ...]
    inputs: Tensor
    errors: Mapping[int, str] = field(default_factory=dict)


class Source(Protocol):
    """Samples in a file or a folder.

    Attributes:
        name_of: what ``Batch.names`` are: ``row`` or ``file``.
        total: the file's bytes, samples or files, as ``done`` counts them.
        done: how many of those have been read.
        notices: what is to be said before the first batch.
    """

    name_of: str
    total: int
    notices: list[str]

    @property
    def done(self) -> int: ...

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples, ``size`` at a time. Raises ConfigError where the file itself is found to be broken."""

    def remarks(self) -> list[str]:
        """What is to be said after the last batch."""


def open_source(
    path: Path, raw: Mapping[str, Any], reading: Mapping[str, Any], dataset: Mapping[str, Any]
) -> Source:
    """What reads ``path`` as the samples that a run was trained on.

    ``raw`` is shape and type of one sample, ``reading`` how such are read, as
    :func:`trainctl.data.preprocessing.describe` says it; ``dataset`` has the arguments of the run's dataset.

    Raises ConfigError for what is not there, or does not hold such samples.
    """
    if not path.exists():
        folder = path.absolute().parent
        close = nearest(path.name, [each.name for each in folder.iterdir()]) if folder.is_dir() else None
        hint = f"did you mean {path.with_name(close)}? " if close else ""
        raise ConfigError(f"--input {path}: there is no such file", f"{hint}{_wanted(raw, reading)}")
    from trainctl.data.images.decoding import SUFFIXES

    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        from trainctl.inference.readers.images import ImageFiles, takes_images

        if not takes_images(raw):
            raise ConfigError(f"--input {path}: the run takes no images", _wanted(raw, reading))
        return ImageFiles(path, raw, reading)
    if not path.is_file():
        raise ConfigError(f"--input {path}: is no plain file", _wanted(raw, reading))
    if zipfile.is_zipfile(path):
        from trainctl.inference.readers.arrays import ArrayFile

        return ArrayFile(path, raw, reading, dataset.get("inputs"))
    if len(raw["shape"]) != 1:
        raise ConfigError(f"--input {path}: the run takes no tables", _wanted(raw, reading))
    from trainctl.inference.readers.tables import TableFile

    return TableFile(path, raw, reading, dataset)


def _wanted(raw: Mapping[str, Any], reading: Mapping[str, Any]) -> str:
    from trainctl.data.preprocessing import shown
    from trainctl.inference.readers.images import takes_images

    if reading.get("kind") == "table":
        return "the run was trained on a table: give a CSV file with its columns"
    if takes_images(raw):
        return (
            f"it was trained on images of {shown(raw)}: give a folder of images, one image, or an .npz file"
        )
    rest = ", or a CSV file" if len(raw["shape"]) == 1 else ""
    return f"it was trained on samples of {shown(raw)}: give an .npz file{rest}"
