"""The curve of a range test, in a terminal and as a picture."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trainctl.training.display import number

if TYPE_CHECKING:
    from trainctl.analysis.lr_finder import RangeTest

_HEIGHT = 12
_WIDTH = 72
_AXIS = 9
# The bit of each of a Braille character's dots, two wide and four high.
_BRAILLE = 0x2800
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def show(result: RangeTest, title: str, mode: str = "auto", stream: TextIO | None = None) -> None:
    """Print to ``stream``, as ``display.mode`` says; ``auto`` is rich on a terminal and plain elsewhere."""
    stream = stream or sys.stdout
    if mode == "auto":
        mode = "rich" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"
    if mode == "none":
        print(typed(result.suggestion), file=stream)
        return
    width = min(_WIDTH, shutil.get_terminal_size().columns - _AXIS - 1) if stream.isatty() else _WIDTH
    head = f"loss over learning rate: {title}"
    if mode == "plain":
        print("\n".join([head, *plot(result, width), "", *words(result)]), file=stream)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    console.print(Text(head, style="bold cyan"))
    for line in plot(result, width, dots=True):
        text = Text(line, no_wrap=True, overflow="crop")
        text.stylize("green", _AXIS)
        text.stylize("dim", 0, _AXIS)
        console.print(text)
    console.print()
    first, *rest = words(result)
    console.print(Text(first, style="bold green"))
    for line in rest:
        console.print(Text(line, style="dim"), soft_wrap=True)


def typed(lr: float) -> str:
    """A learning rate as the word to type: ``lr=3e-3``."""
    mantissa, _, exponent = f"{lr:.0e}".partition("e")
    return f"lr={mantissa}e{int(exponent)}" if abs(int(exponent)) > 1 else f"lr={lr:g}"


def words(result: RangeTest) -> list[str]:
    """What the curve says, the word to type first."""
    if result.exploded is None:
        end = f"the loss did not explode up to {result.points[-1].lr:.1e}"
    else:
        end = f"the loss explodes at {result.exploded:.1e}"
    return [
        f"suggestion: {typed(result.suggestion)}",
        f"the loss falls fastest at {result.steepest:.1e} and is lowest at {result.lowest:.1e}; {end}",
        f"more careful, a tenth of the lowest: {typed(result.tenth)}",
        f"{len(result.points)} steps of {result.batch_size} samples ({result.epochs:.1f} epochs), none kept",
    ]


def plot(result: RangeTest, width: int, *, dots: bool = False) -> list[str]:
    """The smoothed loss over the logarithm of the learning rate, with a column at the suggestion.

    Cut at the height the loss started from, and a little more: an explosion would flatten everything else.
    ``dots`` draws in Braille, eight dots a character; without it an asterisk is a point.
    """
    width = max(20, width)
    rates = [math.log10(point.lr) for point in result.points]
    losses = [point.smoothed for point in result.points]
    low, level = min(losses), max(losses[: len(losses) // 2])
    high = min(max(losses), level + 0.25 * (level - low)) or 1.0
    across, down = (2, 4) if dots else (1, 1)
    columns, rows = width * across, _HEIGHT * down
    left, right = rates[0], rates[-1]

    def column(rate: float) -> int:
        return round((rate - left) / (right - left) * (columns - 1))

    def row(loss: float) -> int:
        return round((high - loss) / ((high - low) or 1.0) * (rows - 1))

    field = [[False] * columns for _ in range(rows)]
    for (x, loss), (after, loss_after) in zip(
        zip(rates, losses, strict=True), zip(rates[1:], losses[1:], strict=True), strict=False
    ):
        for at in range(column(x), column(after) + 1):
            share = (at - column(x)) / max(1, column(after) - column(x))
            height = loss + (loss_after - loss) * share
            if height <= high:
                field[row(height)][at] = True
    marked = min(columns - 1, max(0, column(math.log10(result.suggestion)))) // across
    lines = []
    for y in range(_HEIGHT):
        cells = [_cell(field, x * across, y * down, dots=dots) for x in range(width)]
        if cells[marked] == " ":
            cells[marked] = "│" if dots else "|"
        value = high - (high - low) * y / (_HEIGHT - 1)
        lines.append(
            f"{number(value) if y % 3 == 0 or y == _HEIGHT - 1 else '':>{_AXIS - 1}} {''.join(cells)}"
        )
    return [line.rstrip() for line in [*lines, _scale(left, right, width)]]


def _cell(field: Sequence[Sequence[bool]], x: int, y: int, *, dots: bool) -> str:
    if not dots:
        return "*" if field[y][x] else " "
    bits = sum(_BITS[j][i] for j in range(4) for i in range(2) if field[y + j][x + i])
    return chr(_BRAILLE + bits) if bits else " "


def _scale(left: float, right: float, width: int) -> str:
    """The powers of ten below the columns they stand at, as many as there is room for."""
    line = [" "] * (width + 6)
    free = 0
    for power in range(math.ceil(left - 1e-9), math.floor(right + 1e-9) + 1):
        at, label = round((power - left) / (right - left) * (width - 1)), f"1e{power}"
        if at >= free:
            line[at : at + len(label)] = label
            free = at + len(label) + 2
    return " " * _AXIS + "".join(line)


def save_picture(result: RangeTest, title: str, path: Path) -> None:
    """Draw the curve with matplotlib. Raises OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="loss", title=title)
    rates, losses, smoothed = zip(
        *((each.lr, each.loss, each.smoothed) for each in result.points), strict=True
    )
    axes.plot(rates, losses, color="0.75", linewidth=1, label="each step")
    axes.plot(rates, smoothed, label="smoothed")
    axes.axvline(result.suggestion, color="tab:green", linestyle="--", label=typed(result.suggestion))
    level = max(smoothed[: len(smoothed) // 2])
    room = 0.25 * (level - min(smoothed))
    axes.set_ylim(min(smoothed) - room, level + room)
    axes.legend()
    figure.savefig(path, dpi=150)
