"""Curves drawn with characters: dots of Braille in colours, or letters where there are none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from trainctl.analysis.curves import Curves, Points, bounds, read_curves
from trainctl.analysis.ranking import Comparison
from trainctl.training.display import number
from trainctl.ui.compare import clean, in_order, label, place

Line = list[tuple[str, str]]
"""A line as pieces of text, each with a rich style."""

COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red", "bright_black", "white")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_HEIGHT = 10
_POINTS = 1000
_BRAILLE = 0x2800
# The bit of each of a character's dots, two wide and four high.
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_LOGARITHMIC = 20.0


@dataclass(frozen=True)
class Picture:
    """A picture of characters: a title, then lines."""

    title: str
    lines: list[Line]


@dataclass(frozen=True)
class _Item:
    """What is drawn in one colour: the runs of one setting."""

    label: str
    runs: list[Curves]


def pictures(comparison: Comparison, most: int, width: int, *, letters: bool) -> list[Picture]:
    """The training loss and the monitored value over the steps, for up to ``most`` settings.

    All seeds of a setting have one colour, or one ``letters``. The better one is in front.
    """
    items, total = _items(comparison, most)
    more = f", the first {most} of {total}" if total > most else ""
    drawn: list[Picture] = []
    names = dict.fromkeys(group.monitor.name for group in comparison.groups)
    for name in ("train/loss", *(names or ("val/loss",))):
        curves = [
            [run.train if name == "train/loss" else run.val.get(name, []) for run in item.runs]
            for item in items
        ]
        # One evaluation is no course.
        if any(len(points) > 1 for item in curves for points in item):
            what = f"{name}, smoothed" if name == "train/loss" else name
            log = _is_logarithmic(name, curves)
            lines = _draw(curves, width, letters=letters, log=log)
            scale = ", logarithmic" if log else ""
            drawn.append(Picture(f"{what}, by step{scale}{more}", lines))
    if drawn:
        legend = [_legend(index, item.label, letters=letters) for index, item in enumerate(items)]
        drawn[-1].lines.extend([[], *legend])
    return drawn


def _legend(index: int, text: str, *, letters: bool) -> Line:
    return [(f"  {_LETTERS[index] if letters else '━━'} ", _colour(index, letters=letters)), (text, "")]


def _colour(index: int, *, letters: bool) -> str:
    return "" if letters else COLOURS[index % len(COLOURS)]


def _items(comparison: Comparison, most: int) -> tuple[list[_Item], int]:
    """What is drawn, and how much there would be. Nothing that cannot be read, nor what has no course yet."""
    named: list[tuple[str, list[Path]]] = []
    for group in comparison.groups:
        for row in group.rows:
            rank = "–" if row.rank is None else str(row.rank)
            named.append((f"{rank}  {label(row)}", [run.directory for run in row.runs]))
    for other in in_order(comparison.others):
        if other.entry.has_curves:
            text = clean(other.label) or place(other.entry.directory)
            named.append((f"{other.entry.state}  {text}", [other.entry.directory]))
    items = []
    for text, directories in named[: min(most, len(_LETTERS))]:
        runs = [read_curves(directory).to_draw(_POINTS) for directory in directories]
        damaged = sum(run.damaged for run in runs)
        items.append(_Item(f"{text}  ({_lines(damaged)} left out)" if damaged else text, runs))
    return items, len(named)


def _lines(damaged: int) -> str:
    return f"{damaged} damaged line{'s' if damaged > 1 else ''}"


def _is_logarithmic(name: str, curves: Sequence[Sequence[Points]]) -> bool:
    """Losses that span more than an order of magnitude."""
    if not name.endswith("/loss"):
        return False
    found = bounds([points for item in curves for points in item])
    return found is not None and found[2] > 0 and found[3] / found[2] > _LOGARITHMIC


def _draw(curves: Sequence[Sequence[Points]], width: int, *, letters: bool, log: bool) -> list[Line]:
    found = bounds([points for item in curves for points in item])
    assert found is not None
    first, last, low, high = found
    scale = math.log if log else float
    bottom, top = scale(low), scale(high)
    middle = (bottom + top) / 2
    marks = {
        0: number(high),
        _HEIGHT // 2: number(math.exp(middle) if log else middle),
        _HEIGHT - 1: number(low),
    }
    margin = max(map(len, marks.values()))
    columns = max(20, width - margin - 3)
    dots_wide, dots_high = 2 * columns - 1, 4 * _HEIGHT - 1
    bits = [[0] * columns for _ in range(_HEIGHT)]
    owner = [[-1] * columns for _ in range(_HEIGHT)]

    def place_of(point: tuple[int, float]) -> tuple[float, float]:
        step, value = point
        across = (step - first) / (last - first) if last > first else 0.5
        up = (scale(value) - bottom) / (top - bottom) if top > bottom else 0.5
        return across * dots_wide, (1.0 - up) * dots_high

    # The best is drawn last: in front.
    for index in reversed(range(len(curves))):
        for points in curves[index]:
            for x, y in _dots([place_of(point) for point in points]):
                bits[y // 4][x // 2] |= _BITS[y % 4][x % 2]
                owner[y // 4][x // 2] = index
    lines: list[Line] = []
    for y in range(_HEIGHT):
        line: Line = [(f"{marks.get(y, ''):>{margin}} │", "dim")]
        for mask, index in zip(bits[y], owner[y], strict=True):
            if index < 0:
                line.append((" ", ""))
            else:
                line.append(
                    (_LETTERS[index] if letters else chr(_BRAILLE + mask), _colour(index, letters=letters))
                )
        lines.append(line)
    ends = f"{first:,}", f"{last:,}"
    gap = " " * max(1, columns - len(ends[0]) - len(ends[1]))
    lines.append([(f"{'':>{margin}} └{'─' * columns}", "dim")])
    lines.append([(f"{'':>{margin}}  {ends[0]}{gap}{ends[1]}", "dim")])
    return lines


def _dots(places: Sequence[tuple[float, float]]) -> Iterator[tuple[int, int]]:
    """The dots of a line through all places."""
    if places:
        yield round(places[0][0]), round(places[0][1])
    for (x0, y0), (x1, y1) in pairwise(places):
        count = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
        for part in range(1, count + 1):
            share = part / count
            yield round(x0 + share * (x1 - x0)), round(y0 + share * (y1 - y0))
