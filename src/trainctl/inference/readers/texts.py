"""Texts in a CSV file, read like those that the run was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainctl.data.tables.columns import Column
from trainctl.data.tables.words import tokens_of, unit_of
from trainctl.inference.readers.arrow import ArrowTable, HeldRows
from trainctl.inference.readers.base import Batch
from trainctl.inference.readers.tables import TableFile


class _Texts(TableFile):
    """The column of texts, by its name in training or by number; others are ignored. Texts that are cut, and
    empty ones, are counted."""

    cut = empty = 0

    def _read(
        self, before: int, columns: Sequence[Column], lines: Sequence[int], errors: dict[int, str]
    ) -> Batch:
        texts = columns[0].texts
        assert texts is not None
        inputs, counts = tokens_of(texts, self.reading)
        good = [row for row in range(len(lines)) if row not in errors]
        chosen = torch.tensor(good, dtype=torch.int64)
        self.cut += int((counts[chosen] > self.reading["length"]).sum())
        self.empty += int((counts[chosen] == 0).sum())
        return Batch(range(before + 1, before + len(lines) + 1), inputs[chosen], errors)

    def remarks(self) -> list[str]:
        what = f"texts cut after {self.reading['length']} {unit_of(self.reading)}, as in training"
        found = {what: self.cut, "texts are empty": self.empty}
        return [f"{number:,} {what}" for what, number in found.items() if number]


class TextTable(_Texts):
    """Texts in a CSV file."""


class ArrowTexts(_Texts, ArrowTable):
    """Texts in a Parquet, Arrow or JSON Lines file."""


class HeldTexts(_Texts, HeldRows):
    """Texts in memory."""
