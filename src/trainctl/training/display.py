"""The interface of displays, and how the values of a run are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

V = TypeVar("V")
_PER_CLASS = 12


@dataclass
class Progress:
    """The state of a run, as displays show it.

    Attributes:
        step, total_steps: of the whole run.
        epoch, epochs: the epoch being trained, from 1, and how many there will be.
        epoch_step, epoch_steps: steps within the epoch.
        loss: the newest step's loss.
        smoothed: its running mean.
        epoch_loss: its mean over the epoch, when the epoch has ended.
        speed: training samples a second.
        remaining: seconds left, or None when not known yet.
    """

    step: int = 0
    total_steps: int = 0
    epoch: int = 1
    epochs: int = 1
    epoch_step: int = 0
    epoch_steps: int = 0
    loss: float = float("nan")
    smoothed: float = float("nan")
    epoch_loss: float = float("nan")
    lr: float = 0.0
    speed: float = 0.0
    remaining: float | None = None
    history: list[float] = field(default_factory=list)


class Source(Protocol):
    """Gives the newest progress to a display that redraws itself."""

    def progress(self) -> Progress: ...


class Display:
    """A sink for all output of a run; this one shows nothing. None raises into the run.

    Attributes:
        every: steps between two that are shown one by one; None shows none.
    """

    every: int | None = None

    def header(self, title: str, rows: Sequence[tuple[str, str]]) -> None: ...
    def notice(self, text: str) -> None: ...
    def waiting(self, what: str, part: float) -> None: ...
    def live(self, source: Source) -> None: ...
    def step(self, progress: Progress) -> None: ...
    def epoch(
        self, progress: Progress, values: Mapping[str, float], seconds: float, *, best: bool
    ) -> None: ...
    def table(self, lines: Sequence[str]) -> None: ...
    def closing(
        self, rows: Mapping[str, Mapping[str, object]], places: Sequence[tuple[str, str]]
    ) -> None: ...
    def close(self) -> None: ...


def number(value: object) -> str:
    """A value for a table: at least four significant digits; whole numbers as they are."""
    if not isinstance(value, float):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.4f}"
    return f"{value:.1f}" if 1e3 <= abs(value) < 1e7 else f"{value:.3e}"


def step_words(progress: Progress) -> str:
    """A step in the words of the tutorials: ``Epoch [1/5], Step [100/860], Loss: 0.4321``."""
    epoch = f"Epoch [{progress.epoch}/{progress.epochs}]"
    return f"{epoch}, Step [{progress.epoch_step}/{progress.epoch_steps}], Loss: {progress.loss:.4f}"


def visible(values: Mapping[str, V]) -> dict[str, V]:
    """The values to show: those of single classes (``val/metric/class``) only if there are at most 12."""
    single = {name: value for name, value in values.items() if name.count("/") < 2}
    return dict(values) if len(values) - len(single) <= _PER_CLASS else single


def short_name(name: str) -> str:
    """A value's name without its split: ``val/loss`` is ``loss``."""
    return name.partition("/")[2] or name


def counted(number: int, what: str) -> str:
    """A count and its noun: ``1 run``, ``2 runs``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as ``0.4 s``, ``12 s``, ``3:05`` or ``1:02:03``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
