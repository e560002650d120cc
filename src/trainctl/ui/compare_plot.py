"""The curves of compared runs as pictures of characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainctl.analysis.curves import Curves, Points, bounds, read_curves
from trainctl.analysis.ranking import Comparison
from trainctl.training.display import number
from trainctl.ui.chart import Area, Line, draw
from trainctl.ui.compare_tables import in_order, label, other_label, rank

_COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red", "bright_black", "white")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_HEIGHT = 10
_POINTS = 1000
_LOGARITHMIC = 20.0


@dataclass(frozen=True)
class Picture:
    """A picture of characters: a title, then lines."""

    title: str
    lines: list[Line]


@dataclass(frozen=True)
class _Item:
    """The runs of one setting: drawn in one colour."""

    label: str
    runs: list[Curves]


def pictures(comparison: Comparison, most: int, width: int, *, letters: bool) -> list[Picture]:
    """The training loss and the monitored value over the steps, for up to ``most`` settings.

    All seeds of a setting share a colour, or with ``letters`` a letter. Better settings are in front.
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
        # A single evaluation makes no curve.
        if any(len(points) > 1 for item in curves for points in item):
            what = f"{name}, smoothed" if name == "train/loss" else name
            log = _is_logarithmic(name, curves)
            lines = _draw(curves, width, letters=letters, log=log)
            scale = ", logarithmic" if log else ""
            drawn.append(Picture(f"{what}, by step{scale}{more}", lines))
    if drawn:
        styles = [""] * len(items) if letters else _COLOURS
        marks = [f"  {_LETTERS[index] if letters else '━━'} " for index in range(len(items))]
        legend = [
            [(mark, style), (item.label, "")] for mark, style, item in zip(marks, styles, items, strict=False)
        ]
        drawn[-1].lines.extend([[], *legend])
    return drawn


def _items(comparison: Comparison, most: int) -> tuple[list[_Item], int]:
    """What is drawn, and how many settings there are; runs without a curve to read are left out."""
    named: list[tuple[str, list[Path]]] = []
    for group in comparison.groups:
        for row in group.rows:
            named.append((f"{rank(row)}  {label(row)}", [run.directory for run in row.runs]))
    for other in in_order(comparison.others):
        if other.entry.has_curves:
            named.append((f"{other.entry.state}  {other_label(other)}", [other.entry.directory]))
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
    scale, back = (math.log, math.exp) if log else (float, float)
    middle = back((scale(low) + scale(high)) / 2)
    marks = {0: number(high), _HEIGHT // 2: number(middle), _HEIGHT - 1: number(low)}
    margin = max(map(len, marks.values()))
    area = Area(first, last, scale(low), scale(high), max(20, width - margin - 3), _HEIGHT)
    scaled = [[[(step, scale(value)) for step, value in points] for points in item] for item in curves]
    rows = draw(scaled, area, _LETTERS if letters else "", _COLOURS)
    lines = [[(f"{marks.get(y, ''):>{margin}} │", "dim"), *row] for y, row in enumerate(rows)]
    ends = f"{first:,}{last:>{max(1, area.columns - len(f'{first:,}'))},}"
    lines.append([(f"{'':>{margin}} └{'─' * area.columns}", "dim")])
    lines.append([(f"{'':>{margin}}  {ends}", "dim")])
    return lines
