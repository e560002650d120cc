"""Pictures of a finished run: its curves and its confusion matrix.

matplotlib is imported only when one is drawn, and without pyplot, which would look for a screen.
"""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.runs import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES, CONFUSION = "curves.png", "confusion.png"
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
    drawings: dict[str, Any] = {CURVES: lambda: draw_curves(read_curves(directory / "metrics.jsonl"), title)}
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


@dataclass
class Curves:
    """What a run's ``metrics.jsonl`` says, as lists by name; a step and its value stand at one place."""

    steps: dict[str, list[int]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, step: int, value: float) -> None:
        """One more point; what is not finite leaves a gap."""
        self.steps.setdefault(name, []).append(step)
        self.values.setdefault(name, []).append(value if math.isfinite(value) else math.nan)

    def names(self, split: str) -> list[str]:
        """The values of a split but for the loss and those of single classes."""
        return [
            name
            for name in self.values
            if name.startswith(f"{split}/") and name != f"{split}/loss" and name.count("/") == 1
        ]


def read_curves(path: Path) -> Curves:
    """The points of a ``metrics.jsonl``. Of very many training steps each so manyth counts."""
    curves = Curves()
    with path.open("rb") as file:
        lines = sum(1 for _ in file)
        stride = max(1, lines // _MOST_POINTS)
        file.seek(0)
        for number, line in enumerate(file):
            # Parsing is what takes the time.
            if number % stride and b'"train/loss"' in line:
                continue
            row: Mapping[str, Any] = json.loads(line)
            for name, value in row.items():
                if name not in ("step", "epoch", "samples_per_second"):
                    curves.add(name, row["step"], float(value))
    return curves


def smoothed(values: Sequence[float]) -> list[float]:
    """The running mean of about a sixtieth of the course, without a lag at its beginning; NaN is left out."""
    weight, total, share, means = min(0.98, 1 - 60 / max(61, len(values))), 0.0, 0.0, []
    for value in values:
        if value == value:
            total, share = weight * total + (1 - weight) * value, weight * share + (1 - weight)
        means.append(total / share if share else math.nan)
    return means


def draw_curves(curves: Curves, title: str) -> Figure | None:
    """Loss, metrics and learning rate over the steps; None where there is no step."""
    if "train/loss" not in curves.values:
        return None
    names = curves.names("val")
    # What lies between 0 and 1 can share a panel.
    shares = [name for name in names if _within(curves.values[name], 0, 1)]
    panels = [*([shares] if shares else []), *([name] for name in names if name not in shares)][:3]
    figure, axes = _figure(8, 3.0 + 1.7 * len(panels) + 1.3, [3.0, *(1.7 for _ in panels), 1.1])
    loss, *middle, rate = axes
    _draw_loss(loss, curves)
    for axis, group in zip(middle, panels, strict=True):
        colours = _METRICS * (len(group) // len(_METRICS) + 1)
        for name, colour in zip(group, colours, strict=False):
            _points(axis, curves, name, colour)
        _name_axis(axis, group)
    rate.plot(curves.steps["lr"], curves.values["lr"], color=_SMOOTH, linewidth=1.2)
    rate.set_ylabel("learning rate")
    rates = [value for value in curves.values["lr"] if value == value]
    if rates and min(rates) >= 0 < max(rates):
        rate.set_ylim(0, 1.15 * max(rates))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-4, 4))
    rate.set_xlabel("step")
    loss.set_title(title if len(title) <= 56 else f"{title[:55]}…", loc="left", fontsize=10)
    figure.align_ylabels(axes)
    return figure


def _draw_loss(axis: Axes, curves: Curves) -> None:
    steps, raw = curves.steps["train/loss"], curves.values["train/loss"]
    mean = smoothed(raw)
    axis.plot(steps, raw, color=_RAW, linewidth=0.7, alpha=0.6, label="train, each step")
    axis.plot(steps, mean, color=_SMOOTH, linewidth=1.6, label="train, smoothed")
    drawn = [value for value in mean if value == value]
    if "val/loss" in curves.values:
        _points(axis, curves, "val/loss", _VAL, label="val")
        drawn += [value for value in curves.values["val/loss"] if value == value]
    axis.set_ylabel("loss")
    if drawn and min(drawn) > 0 and max(drawn) > 30 * min(drawn):
        axis.set_yscale("log")
    elif drawn and max(drawn) > min(drawn):
        # Single steps far off would press the rest flat.
        room = 0.15 * (max(drawn) - min(drawn))
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, min(drawn) - 2 * room), min(high, max(drawn) + 4 * room))
    # Above the panel, where no curve is.
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    axis.legend(fontsize=8, frameon=False, ncols=3, **place)


def _points(axis: Axes, curves: Curves, name: str, colour: str, label: str | None = None) -> None:
    steps, values = curves.steps[name], curves.values[name]
    marker = "o" if len(steps) <= 60 else None
    short = name.partition("/")[2]
    axis.plot(
        steps, values, color=colour, marker=marker, markersize=3, linewidth=1.4, label=label or f"val {short}"
    )


def _name_axis(axis: Axes, group: Sequence[str]) -> None:
    if len(group) == 1:
        axis.set_ylabel(group[0].replace("/", " "))
    else:
        axis.set_ylabel("val")
        axis.legend(fontsize=8, frameon=False, ncols=2)


def _within(values: Sequence[float], low: float, high: float) -> bool:
    return all(low <= value <= high for value in values if value == value)


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
