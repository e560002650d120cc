"""The curve of a range test, in a terminal and as a picture."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trainctl.training.display import number
from trainctl.ui import svg
from trainctl.ui.chart import Area, Line, draw
from trainctl.ui.screen import Screen
from trainctl.ui.svg import Axis

if TYPE_CHECKING:
    from trainctl.analysis.lr_finder import RangeTest

_HEIGHT = 12
_WIDTH = 72
_AXIS = 9


def show(result: RangeTest, title: str, mode: str = "auto", stream: TextIO | None = None) -> None:
    """Print to ``stream`` as ``display.mode`` says; the mode ``none`` leaves the suggestion only."""
    screen = Screen(stream, mode)
    if screen.mode == "none":
        print(typed(result.suggestion), file=screen.stream)
        return
    terminal = shutil.get_terminal_size().columns if screen.stream.isatty() else math.inf
    screen.line(f"loss over learning rate: {title}", "bold cyan")
    for line in plot(result, int(min(_WIDTH, terminal - _AXIS - 1)), dots=screen.mode == "rich"):
        screen.pieces(line)
    screen.line()
    first, *rest = summary(result)
    screen.line(first, "bold green")
    for text in rest:
        screen.line(text, "dim")


def typed(lr: float) -> str:
    """A learning rate as it is typed: ``lr=3e-3``."""
    mantissa, _, exponent = f"{lr:.0e}".partition("e")
    return f"lr={mantissa}e{int(exponent)}" if abs(int(exponent)) > 1 else f"lr={lr:g}"


def summary(result: RangeTest) -> list[str]:
    """What the curve says in sentences, the suggestion first."""
    if result.exploded is None:
        end = f"the loss did not explode up to {result.points[-1].lr:.1e}"
    else:
        end = f"the loss explodes at {result.exploded:.1e}"
    tenth = f"more conservative, a tenth of the rate with the lowest loss: {typed(result.tenth)}"
    if typed(result.tenth) == typed(result.suggestion):
        tenth = "a tenth of the rate with the lowest loss, the other rule of thumb, is the same"
    return [
        f"suggestion: {typed(result.suggestion)}",
        f"the loss falls fastest at {result.steepest:.1e} and is lowest at {result.lowest:.1e}; {end}",
        tenth,
        f"{len(result.points)} steps of {result.batch_size} samples ({result.epochs:.1f} epochs);"
        " the trained weights are discarded",
    ]


def plot(result: RangeTest, width: int, *, dots: bool = False) -> list[Line]:
    """The smoothed loss over the logarithm of the learning rate, with a vertical line at the suggestion.

    Cut off a little above the loss it started from: an explosion would flatten everything else. ``dots``
    draws in Braille, eight dots a character; without it a character is an asterisk.
    """
    points = [(math.log10(point.lr), point.smoothed) for point in result.points]
    losses = [loss for _, loss in points]
    low, level = min(losses), max(losses[: len(losses) // 2])
    high = min(max(losses), level + 0.25 * (level - low))
    area = Area(points[0][0], points[-1][0], low, high, max(20, width), _HEIGHT)
    rows = draw([[points]], area, "" if dots else "*", ["green"])
    marked = round(area.dot(math.log10(result.suggestion), low)[0]) // 2
    for row in rows:
        if row[marked][0] == " ":
            row[marked] = "│" if dots else "|", "green"
    labelled = (*range(0, _HEIGHT, 3), _HEIGHT - 1)
    labels = [number(area.height(y)) if y in labelled else "" for y in range(_HEIGHT)]
    lines = [[(f"{label:>{_AXIS - 1}} ", "dim"), *row] for label, row in zip(labels, rows, strict=True)]
    return [*lines, [(_scale(area), "dim")]]


def _scale(area: Area) -> str:
    """The powers of ten below the columns they stand at, as many as there is room for."""
    line = [" "] * (area.columns + 6)
    free = 0
    for power in range(math.ceil(area.left - 1e-9), math.floor(area.right + 1e-9) + 1):
        at, label = round(area.dot(power, area.top)[0]) // 2, f"1e{power}"
        if at >= free:
            line[at : at + len(label)] = label
            free = at + len(label) + 2
    return " " * _AXIS + "".join(line)


def save_picture(result: RangeTest, title: str, path: Path) -> None:
    """Draw the curve as SVG. Raises OSError."""
    smoothed = [(point.lr, point.smoothed) for point in result.points]
    losses = [loss for _, loss in smoothed]
    level = max(losses[: len(losses) // 2])
    room = 0.25 * (level - min(losses)) or 1.0
    x = Axis(result.points[0].lr, result.points[-1].lr, 80, 936, log=True)
    y = Axis(min(losses) - room, level + room, 420, 60)
    marked = [(result.suggestion, y.low), (result.suggestion, y.high)]
    lines = [
        svg.Line("each step", [(point.lr, point.loss) for point in result.points], "#bfbfbf", 1),
        svg.Line("smoothed", smoothed, "#1f77b4"),
        svg.Line(typed(result.suggestion), marked, "#2ca02c", dash="6 4"),
    ]
    parts = [svg.text(80, 24, title, 14, "start"), svg.text(508, 456, "learning rate", svg.LABEL)]
    parts += svg.panel(x, y, "loss", lines, legend=True, steps=True)
    path.write_text(svg.document(960, 470, parts), encoding="utf-8")
