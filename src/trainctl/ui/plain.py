"""A run as plain lines, for pipes, logs and CI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO

from trainctl.runs.printable import shown
from trainctl.training.display import Display, Progress, duration, number, step_words

_EVERY = 100


class Plain(Display):
    """A line for each event and one every ``every`` steps (100 when None); nothing is redrawn."""

    def __init__(self, stream: TextIO, every: int | None = None) -> None:
        self._stream = stream
        self.every: int | None = every or _EVERY

    def _print(self, line: str) -> None:
        self._stream.write(shown(line) + "\n")
        self._stream.flush()

    def header(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        self._print(title)
        for label, text in rows:
            self._print(f"  {label:<9} {text}")

    def notice(self, text: str) -> None:
        self._print(text)

    def step(self, progress: Progress) -> None:
        self._print(f"{step_words(progress)}  lr {progress.lr:.1e}  {progress.speed:.0f} samples/s")

    def epoch(self, progress: Progress, values: Mapping[str, float], seconds: float, *, best: bool) -> None:
        shown = "  ".join(f"{name} {number(value)}" for name, value in values.items())
        mark = "  best" if best else ""
        self._print(
            f"epoch {progress.epoch}/{progress.epochs}  train/loss {number(progress.epoch_loss)}"
            f"{'  ' if shown else ''}{shown}  {progress.speed:.0f} samples/s  {duration(seconds)}{mark}"
        )

    def table(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._print(line)

    def closing(self, rows: Mapping[str, Mapping[str, object]], places: Sequence[tuple[str, str]]) -> None:
        for label, values in rows.items():
            shown = "  ".join(f"{name} {number(value)}" for name, value in values.items())
            self._print(f"{label:<5} {shown}")
        for label, text in places:
            self._print(f"{label}: {text}")
