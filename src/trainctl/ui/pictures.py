"""Pictures of a finished run, as SVG: its curves and its confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from trainctl.analysis.curves import Curves, read_curves, smooth, thin
from trainctl.runs import files
from trainctl.runs.directory import CONFUSION, CURVES
from trainctl.ui import svg
from trainctl.ui.svg import Axis, Line

_MOST_READ, _MOST_DRAWN = 20_000, 3000
_WITH_NUMBERS, _WITH_NAMES = 14, 40
_RAW, _SMOOTH, _VAL = "#7db4dc", "#1f77b4", "#d95f02"
_METRICS = ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d")
_WIDTH, _LEFT, _RIGHT, _TOP, _BETWEEN, _BOTTOM = 960, 80, 24, 44, 30, 46
_LOSS, _PANEL, _RATE = 260, 140, 90


def draw(
    directory: Path, title: str, counts: Sequence[Sequence[int]] | None, classes: Sequence[str], what: str
) -> list[str]:
    """Draw into the run's ``directory``; returns a line for each picture that could not be drawn.

    Args:
        directory: the run's.
        title: of the curves.
        counts: samples by true class (rows) and predicted class (columns); None draws no matrix.
        classes: their names.
        what: the dataset, split and checkpoint of the counts.
    """
    said = []
    drawings: dict[str, Any] = {CURVES: lambda: draw_curves(read_curves(directory, _MOST_READ), title)}
    if counts is not None:
        drawings[CONFUSION] = lambda: draw_confusion(counts, classes, what)
    for name, drawing in drawings.items():
        try:
            figure = drawing()
            if figure is not None:
                files.replace(directory / name, figure.encode())
        except Exception as error:  # a picture is never worth a run
            reason = str(error).partition("\n")[0]
            said.append(f"{name} was not drawn: {type(error).__name__}: {reason}")
    return said


# ------------------------------------------------------------------- curves


def draw_curves(curves: Curves, title: str) -> str | None:
    """Loss, metrics and learning rate over the steps; None where there is no step."""
    if not curves.train:
        return None
    names = [name for name in curves.val if name != "val/loss"]
    # What lies between 0 and 1 can share a panel.
    shares = [name for name in names if all(0 <= value <= 1 for _, value in curves.val[name])]
    groups = [*([shares] if shares else []), *([name] for name in names if name not in shares)][:3]
    steps = [step for points in (curves.train, *curves.val.values()) for step, _ in points]
    x = Axis(min(steps), max(steps), _LEFT, _WIDTH - _RIGHT)
    bottom = _TOP + _LOSS
    parts = [svg.text(_LEFT, 20, title if len(title) <= 80 else f"{title[:79]}…", 14, "start")]
    parts += _loss(curves, x, bottom)
    for group in groups:
        bottom += _BETWEEN + _PANEL
        lines = [
            _evaluations(f"val {name.partition('/')[2]}", curves.val[name], colour)
            for name, colour in zip(group, cycle(_METRICS), strict=False)
        ]
        y = Axis(*_with_room([line.points for line in lines]), bottom, bottom - _PANEL)
        name = group[0].replace("/", " ") if len(group) == 1 else "val"
        parts += svg.panel(x, y, name, lines, legend=len(group) > 1, steps=False)
    bottom += _BETWEEN + _RATE
    rate = Line("learning rate", thin(curves.lr, _MOST_DRAWN), _SMOOTH, 1.4)
    rates = [value for _, value in rate.points] or [0.0]
    limits = (0.0, 1.15 * max(rates)) if min(rates) >= 0 < max(rates) else _with_room([rate.points])
    parts += svg.panel(x, Axis(*limits, bottom, bottom - _RATE), rate.name, [rate], legend=False, steps=True)
    parts.append(svg.text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 36, "step", svg.LABEL))
    return svg.document(_WIDTH, bottom + _BOTTOM, parts)


def _loss(curves: Curves, x: Axis, bottom: float) -> list[str]:
    mean, val = smooth(curves.train), curves.val.get("val/loss", [])
    lines = [
        Line("train, each step", thin(curves.train, _MOST_DRAWN), _RAW, 0.8, opacity=0.6),
        Line("train, smoothed", thin(mean, _MOST_DRAWN), _SMOOTH, 2),
    ]
    if val:
        lines.append(_evaluations("val", val, _VAL))
    low, high = _with_room([line.points for line in lines])
    drawn = [value for _, value in [*mean, *val]]
    is_log = min(drawn) > 0 and max(drawn) > 30 * min(drawn)
    if is_log:
        positive = [value for line in lines for _, value in line.points if value > 0]
        low, high = min(positive) / 1.2, max(positive) * 1.2
    elif max(drawn) > min(drawn):
        # Single steps far off would press the rest flat.
        room = 0.15 * (max(drawn) - min(drawn))
        low, high = max(low, min(drawn) - 2 * room), min(high, max(drawn) + 4 * room)
    y = Axis(low, high, bottom, bottom - _LOSS, is_log)
    return svg.panel(x, y, "loss", lines, legend=True, steps=False)


def _evaluations(name: str, points: Sequence[tuple[int, float]], colour: str) -> Line:
    return Line(name, thin(list(points), _MOST_DRAWN), colour, dots=len(points) <= 60)


def _with_room(curves: Sequence[svg.Points]) -> tuple[float, float]:
    values = [value for points in curves for _, value in points] or [0.0]
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


# ------------------------------------------------------------------- classes


def draw_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str], what: str) -> str | None:
    """Samples by true and predicted class, coloured by their share of the true class."""
    total = sum(map(sum, counts))
    if total == 0:
        return None
    number = len(counts)
    cell = min(44.0, max(9.0, 900 / number)) if number <= 100 else 900 / number
    names = [name if len(name) <= 16 else f"{name[:15]}…" for name in classes]
    shown = range(0, number, max(1, math.ceil(number / _WITH_NAMES)))
    longest = max(len(names[index]) for index in shown)
    left, top = 56 + 7 * longest, 56
    side = cell * number
    parts = [f'<rect x="{left}" y="{top}" width="{side:.1f}" height="{side:.1f}" fill="#f7fbff"/>']
    for row, of_class in enumerate(counts):
        for column, count in enumerate(of_class):
            if count:
                parts += _cell(left + column * cell, top + row * cell, cell, count, count / sum(of_class))
                if number <= _WITH_NUMBERS:
                    parts.append(_count(left + column * cell, top + row * cell, cell, count, sum(of_class)))
    for index in shown:
        middle = (index + 0.5) * cell
        parts.append(svg.text(left - 6, top + middle + 4, names[index], anchor="end"))
        if longest > 3:
            parts.append(svg.upright(left + middle + 4, top + side + 6, names[index], anchor="end"))
        else:
            parts.append(svg.text(left + middle, top + side + 16, names[index]))
    below = top + side + (7 * longest if longest > 3 else 12) + 30
    correct = sum(counts[index][index] for index in range(number))
    parts.append(svg.text(left, 20, what, 13, "start"))
    parts.append(svg.text(left, 40, f"{correct:,} of {total:,} correct ({correct / total:.2%})", 13, "start"))
    parts.append(svg.text(left + side / 2, below, "predicted class", svg.LABEL))
    parts.append(svg.upright(20, top + side / 2, "true class", svg.LABEL))
    widest = max(side, 7.5 * len(what), 260)
    return svg.document(left + widest + 24, below + 20, parts)


def _cell(x: float, y: float, side: float, count: int, share: float) -> list[str]:
    # From nearly white to dark blue.
    colour = "#" + "".join(
        f"{round(light + share * (dark - light)):02x}" for light, dark in ((222, 8), (235, 48), (247, 107))
    )
    tip = f"<title>{count:,} ({share:.1%})</title>"
    return [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}" fill="{colour}">{tip}</rect>'
    ]


def _count(x: float, y: float, side: float, count: int, of: int) -> str:
    colour = "white" if count / of > 0.5 else "#333333"
    size = 13 if count < 1000 else 10
    return svg.text(x + side / 2, y + side / 2 + 4, str(count), size, more=f'fill="{colour}"')
