"""A table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainctl.components.trackers._base import Row
from trainctl.registry import TRACKERS
from trainctl.runs import files


@TRACKERS.register("csv")
class Csv:
    """``metrics.csv`` in the run directory: a row a step, a column a value, empty where there is none."""

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._log: files.Log | None = None
        # The newest row waits for an evaluation after the same step.
        self._newest: dict[str, float] = {}

    def start(self, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        self._path = directory / "metrics.csv"
        self._rewrite([])

    def metrics(self, rows: Sequence[Row]) -> None:
        finished = []
        for step, values in rows:
            if self._newest and self._newest["step"] != step:
                finished.append(self._newest)
                self._newest = {}
            self._newest |= {"step": step, **values}
        self._write(finished)

    def artifact(self, path: Path) -> None:
        """Nothing: the file is already in the run directory."""

    def end(self, status: str) -> None:
        if self._newest:
            self._write([self._newest])
        assert self._log is not None
        self._log.close()

    def _write(self, rows: list[dict[str, float]]) -> None:
        new = [name for row in rows for name in row if name not in self._columns]
        if new:
            self._columns += dict.fromkeys(new)
            with self._path.open(encoding="utf-8", newline="") as file:
                self._rewrite(list(csv.DictReader(file)))
        assert self._log is not None
        self._log.write(self._text(rows))

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the table by one with the current columns."""
        if self._log is not None:
            self._log.close()
        header = self._text([{name: name for name in self._columns}]) if self._columns else b""
        files.replace(self._path, header + self._text(rows))
        self._log = files.Log(self._path)

    def _text(self, rows: Iterable[Mapping[str, Any]]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue().encode()
