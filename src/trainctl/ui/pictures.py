"""Pictures of a finished run: its curves and its confusion matrix.

matplotlib is imported only when one is drawn, and without pyplot, which would look for a screen.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.analysis.curves import Curves, Points, read_curves, smooth
from trainctl.runs import files
from trainctl.runs.directory import CONFUSION, CURVES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MOST_POINTS = 20_000
_WITH_NUMBERS, _WITH_NAMES = 14, 40
_RAW, _SMOOTH, _VAL = "#7db4dc", "#1f77b4", "#d95f02"
_METRICS = ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d")


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
    drawings: dict[str, Any] = {CURVES: lambda: draw_curves(read_curves(directory, _MOST_POINTS), title)}
    if counts is not None:
        drawings[CONFUSION] = lambda: draw_confusion(counts, classes, what)
    for name, drawing in drawings.items():
        try:
            figure = drawing()
            if figure is not None:
                files.replace(directory / name, _png(figure))
        except ImportError as error:
            return [f"no pictures: {error}; pip install matplotlib, or pictures=false"]
        except Exception as error:  # a picture is never worth a run
            reason = str(error).partition("\n")[0]
            said.append(f"{name} was not drawn: {type(error).__name__}: {reason}")
    return said


# ------------------------------------------------------------------- curves


def draw_curves(curves: Curves, title: str) -> Figure | None:
    """Loss, metrics and learning rate over the steps; None where there is no step."""
    if not curves.train:
        return None
    names = [name for name in curves.val if name != "val/loss"]
    # What lies between 0 and 1 can share a panel.
    shares = [name for name in names if all(0 <= value <= 1 for _, value in curves.val[name])]
    panels = [*([shares] if shares else []), *([name] for name in names if name not in shares)][:3]
    figure, axes = _figure(8, 3.0 + 1.7 * len(panels) + 1.3, [3.0, *(1.7 for _ in panels), 1.1])
    loss, *middle, rate = axes
    _draw_loss(loss, curves)
    for axis, group in zip(middle, panels, strict=True):
        for name, colour in zip(group, cycle(_METRICS), strict=False):
            _points(axis, curves.val[name], f"val {name.partition('/')[2]}", colour)
        _name_axis(axis, group)
    rate.plot(*_apart(curves.lr), color=_SMOOTH, linewidth=1.2)
    rate.set_ylabel("learning rate")
    rates = [value for _, value in curves.lr]
    if rates and min(rates) >= 0 < max(rates):
        rate.set_ylim(0, 1.15 * max(rates))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-4, 4))
    rate.set_xlabel("step")
    loss.set_title(title if len(title) <= 56 else f"{title[:55]}…", loc="left", fontsize=10)
    figure.align_ylabels(axes)
    return figure


def _draw_loss(axis: Axes, curves: Curves) -> None:
    mean, val = smooth(curves.train), curves.val.get("val/loss", [])
    axis.plot(*_apart(curves.train), color=_RAW, linewidth=0.7, alpha=0.6, label="train, each step")
    axis.plot(*_apart(mean), color=_SMOOTH, linewidth=1.6, label="train, smoothed")
    if val:
        _points(axis, val, "val", _VAL)
    drawn = [value for _, value in [*mean, *val]]
    axis.set_ylabel("loss")
    if min(drawn) > 0 and max(drawn) > 30 * min(drawn):
        axis.set_yscale("log")
    elif max(drawn) > min(drawn):
        # Single steps far off would press the rest flat.
        room = 0.15 * (max(drawn) - min(drawn))
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, min(drawn) - 2 * room), min(high, max(drawn) + 4 * room))
    # Above the panel, where no curve is.
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    axis.legend(fontsize=8, frameon=False, ncols=3, **place)


def _points(axis: Axes, points: Points, label: str, colour: str) -> None:
    marker = "o" if len(points) <= 60 else None
    axis.plot(*_apart(points), color=colour, marker=marker, markersize=3, linewidth=1.4, label=label)


def _apart(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _name_axis(axis: Axes, group: Sequence[str]) -> None:
    if len(group) == 1:
        axis.set_ylabel(group[0].replace("/", " "))
    else:
        axis.set_ylabel("val")
        axis.legend(fontsize=8, frameon=False, ncols=2)


# ------------------------------------------------------------------- classes


def draw_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str], what: str) -> Figure | None:
    """Samples by true and predicted class, coloured by their share of the true class."""
    total = sum(map(sum, counts))
    if total == 0:
        return None
    number = len(counts)
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    side = min(10.0, max(4.2, 2.2 + 0.42 * number))
    figure, (axis,) = _figure(side + 0.9, side, [1])
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    names = [name if len(name) <= 16 else f"{name[:15]}…" for name in classes]
    shown = range(0, number, max(1, math.ceil(number / _WITH_NAMES)))
    long = max(len(names[index]) for index in shown) > 3
    axis.set_xticks(list(shown), [names[index] for index in shown], rotation=90 if long else 0, fontsize=8)
    axis.set_yticks(list(shown), [names[index] for index in shown], fontsize=8)
    if number <= _WITH_NUMBERS:
        size = 9 if max(map(max, counts)) < 1000 else 7
        for row in range(number):
            for column in range(number):
                if counts[row][column]:
                    colour = "white" if shares[row][column] > 0.5 else "#333333"
                    text = str(counts[row][column])
                    axis.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
    axis.grid(visible=False)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    correct = sum(counts[index][index] for index in range(number))
    axis.set_title(f"{what}\n{correct:,} of {total:,} correct ({correct / total:.2%})", fontsize=10)
    return figure


# ------------------------------------------------------------------- drawing


def _figure(width: float, height: float, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A figure with panels of these heights, one above the other over one axis."""
    # It warns of a cache that it cannot write, and says that it looks for fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=list(heights))
    axes = [row[0] for row in grid]
    for axis in axes:
        axis.grid(visible=True, color="#e6e6e6", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_fontsize(9)
        axis.yaxis.label.set_fontsize(9)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name with characters that the font lacks
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
