"""Predictions that are masks: a PNG file for each image, and a table of them."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from trainctl.data.images.masks import write_mask
from trainctl.errors import ConfigError
from trainctl.inference.readers.base import Source
from trainctl.inference.trained_run import Trained
from trainctl.inference.writers.base import Writer, storage_errors

TABLE = "predictions.csv"


class MaskRecords(Writer):
    """Predicted masks as arrays: ``records`` has one for each image, with the values of training.

    A mask has the size of its image where training stretched images to one size, else the one in training;
    ``shares`` is each class's share of the pixels.
    """

    def __init__(self, source: Source, trained: Trained) -> None:
        self.unit, self.classes = source.unit, trained.classes
        values = trained.reading.get("values") or range(len(self.classes))
        self.values = numpy.array(values, dtype=numpy.uint8)
        stretched = trained.reading.get("resize") == "stretch"
        self.size_of = getattr(source, "size_of", None) if stretched else None
        self.records: list[dict[str, Any]] = []

    def write(self, name: int | str, values: Any, error: str, note: str) -> None:
        fields = (
            {"error": error} if error else {"mask": self.mask(name, values), "shares": self.shares(values)}
        )
        self.records.append({self.unit: name, **fields})

    def mask(self, name: int | str, probabilities: Tensor) -> Any:
        """The mask of one image, (height, width) uint8."""
        numbers = self.values[probabilities.argmax(0).numpy()]
        if self.size_of is None:
            return numbers
        height, width = self.size_of(name)
        resized = Image.fromarray(numbers).resize((width, height), Image.Resampling.NEAREST)
        return numpy.array(resized)

    def shares(self, probabilities: Tensor) -> dict[str, float]:
        """Each class's share of the pixels, by its name."""
        classes = probabilities.argmax(0)
        counts = torch.bincount(classes.flatten(), minlength=len(self.classes)).tolist()
        shares = (float(f"{count / classes.numel():.6g}") for count in counts)
        return dict(zip(self.classes, shares, strict=True))


class Masks(MaskRecords):
    """A folder of predicted masks; it appears under its name when it is complete.

    A mask has the name of its image, or the row's number. The table ``predictions.csv`` names them, with
    each class's share of the pixels, and the reason for a missing one.

    Raises StorageError where it cannot be written.
    """

    def __init__(self, path: Path, source: Source, trained: Trained) -> None:
        super().__init__(source, trained)
        self.path = path
        self.temporary = path.absolute().with_name(f".{path.absolute().name}.{os.getpid()}")
        self.written: set[str] = set()

    def __enter__(self) -> Masks:
        with storage_errors(self.path):
            self.temporary.mkdir()
            self.stream = (self.temporary / TABLE).open("w", encoding="utf-8", newline="")
            self.lines = csv.writer(self.stream, lineterminator="\n")
            self.lines.writerow([self.unit, "mask", *(f"share_{name}" for name in self.classes), "error"])
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with storage_errors(self.path):
                    self.stream.flush()
                    os.fsync(self.stream.fileno())
                    if self.path.exists():
                        shutil.rmtree(self.path)  # masks of before: check_folder looked
                    self.temporary.replace(self.path)
        finally:
            with contextlib.suppress(OSError):
                self.stream.close()
            shutil.rmtree(self.temporary, ignore_errors=True)

    def write(self, name: int | str, values: Any, error: str, note: str) -> None:
        mask, shares = "", [""] * len(self.classes)
        if not error:
            mask = self._write(name, self.mask(name, values))
            shares = [f"{share:.6g}" for share in self.shares(values).values()]
        with storage_errors(self.path):
            self.lines.writerow([name, mask, *shares, error])

    def _write(self, name: int | str, numbers: Any) -> str:
        """Write one mask; its path in the folder."""
        given = Path(f"{name:06d}" if isinstance(name, int) else name)
        mask = str(given.with_suffix(".png"))
        # Files of one name and different formats.
        mask = mask if mask not in self.written else f"{given}.png"
        self.written.add(mask)
        with storage_errors(self.path):
            (self.temporary / mask).parent.mkdir(parents=True, exist_ok=True)
            write_mask(self.temporary / mask, numbers)
        return mask


def check_folder(output: Path) -> None:
    """Raise ConfigError where masks cannot be written to the folder ``output``."""
    if output.suffix:
        raise ConfigError(
            f"--output {output}: predictions are masks, which are written to a folder",
            f"name a folder: --output {output.with_suffix('')}",
        )
    if output.exists() and not _holds_masks(output):
        raise ConfigError(
            f"--output {output}: exists, and holds something else than predicted masks",
            "name another folder",
        )


def _holds_masks(folder: Path) -> bool:
    """Whether a folder is empty, or holds what :class:`Masks` wrote and nothing else."""
    if not folder.is_dir():
        return False
    there = {str(each.relative_to(folder)) for each in folder.rglob("*") if not each.is_dir()}
    try:
        with (folder / TABLE).open(encoding="utf-8", newline="") as stream:
            named = {row["mask"] for row in csv.DictReader(stream)}
    except (OSError, ValueError, KeyError, csv.Error):
        return not there
    return there <= {TABLE, *named}
