"""Predictions that are masks: a PNG file for each image, and a table of them."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from trainctl.data.images.masks import write_mask
from trainctl.errors import ConfigError
from trainctl.inference.readers.base import Batch, Source
from trainctl.inference.trained_run import Trained
from trainctl.inference.writers.base import Outcome, storage_errors

TABLE = "predictions.csv"


class Masks:
    """A folder of predicted masks; it appears under its name when it is complete.

    A mask has the name of its image, or the row's number, and the values of the masks in training. Its size
    is that of the image where training stretched images to one size, else the one in training. The table
    ``predictions.csv`` names them, with each class's share of the pixels, and the reason for a missing one.

    Raises StorageError where it cannot be written.
    """

    def __init__(self, path: Path, source: Source, trained: Trained) -> None:
        self.path, self.unit, self.classes = path, source.unit, trained.classes
        self.temporary = path.absolute().with_name(f".{path.absolute().name}.{os.getpid()}")
        values = trained.reading.get("values") or range(len(self.classes))
        self.values = numpy.array(values, dtype=numpy.uint8)
        stretched = trained.reading.get("resize") == "stretch"
        self.size_of = getattr(source, "size_of", None) if stretched else None
        self.written: set[str] = set()

    def __enter__(self) -> Masks:
        with storage_errors(self.path):
            self.temporary.mkdir()
            self.stream = (self.temporary / TABLE).open("w", encoding="utf-8", newline="")
            self.rows = csv.writer(self.stream, lineterminator="\n")
            self.rows.writerow([self.unit, "mask", *(f"share_{name}" for name in self.classes), "error"])
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

    def add(self, batch: Batch, predictions: Tensor, outcome: Outcome) -> None:
        """Write the masks of a batch; ``predictions`` are those of ``batch.inputs``, in their order."""
        rows = iter(predictions)
        for place, name in enumerate(batch.names):
            error, mask, shares = batch.errors.get(place, ""), "", [""] * len(self.classes)
            if not error:
                probabilities = next(rows)
                if bool(probabilities.isfinite().all()):
                    classes = probabilities.argmax(0)
                    mask = self._write(name, classes)
                    counts = torch.bincount(classes.flatten(), minlength=len(self.classes))
                    shares = [f"{count / classes.numel():.6g}" for count in counts.tolist()]
                else:
                    error = "the model's output is not finite"
            outcome.count(self.unit, name, error)
            with storage_errors(self.path):
                self.rows.writerow([name, mask, *shares, error])

    def _write(self, name: int | str, classes: Tensor) -> str:
        """Write one mask; its path in the folder."""
        numbers = self.values[classes.numpy()]
        if self.size_of is not None:
            height, width = self.size_of(str(name))
            resized = Image.fromarray(numbers).resize((width, height), Image.Resampling.NEAREST)
            numbers = numpy.array(resized)
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
