"""Line charts as SVG, written directly: a plotting library costs more time than a short run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from trainctl.runs.printable import shown

Points = Sequence[tuple[float, float]]
TICK, LABEL = 11, 12
_GRID, _INK = "#e6e6e6", "#333333"
_LETTER = 0.6  # the mean width of a letter, in font sizes


def document(width: float, height: float, parts: Iterable[str]) -> str:
    """A whole SVG of so many pixels on white ground."""
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" fill="{_INK}">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def text(x: float, y: float, words: str, size: float = TICK, anchor: str = "middle", more: str = "") -> str:
    """Words on the line ``y``. ``anchor`` is start, middle or end, ``more`` further attributes."""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"'
    return f"<text {place}{more and ' '}{more}>{escape(shown(words))}</text>"


def upright(x: float, y: float, words: str, size: float = TICK, anchor: str = "middle") -> str:
    """Words that are read from below."""
    return text(x, y, words, size, anchor, f'transform="rotate(-90 {x:.1f} {y:.1f})"')


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high`` on the pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """The pixel of a value; the middle where the axis has no extent."""
        low, high, value = (self._scaled(each) for each in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values on the axis, at most about so many."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            factors = (1, 2, 5) if last - first <= most / 3 else (1,)
            every = max(1, math.ceil((last - first) / most))
            found = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
            return [value for value in found if self.low <= value <= self.high]
        if not self.high > self.low:
            return [self.low]
        size = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(size))
        unit *= next(factor for factor in (1, 2, 5, 10) if factor * unit >= size * (1 - 1e-9))
        first, last = math.ceil(self.low / unit - 1e-9), math.floor(self.high / unit + 1e-9)
        return [number * unit for number in range(first, last + 1)]

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value


@dataclass(frozen=True)
class Line:
    """A curve with its name in the legend; ``dots`` marks each point, ``dash`` as in SVG."""

    name: str
    points: Points
    colour: str
    width: float = 1.6
    dots: bool = False
    opacity: float = 1.0
    dash: str = ""


def panel(x: Axis, y: Axis, name: str, lines: Sequence[Line], *, legend: bool, steps: bool) -> list[str]:
    """A chart in the rectangle of its axes: grid, labels on the left, and below it where ``steps`` is true.

    Lines are cut off at the rectangle. The legend stands above it on the right.
    """
    parts = []
    for value in y.ticks(max(2, round((y.start - y.end) / 32))):
        at = y.place(value)
        parts.append(_rule(x.start, at, x.end, at, _GRID))
        parts.append(text(x.start - 6, at + 4, _number(value), anchor="end"))
    for value in x.ticks(8):
        at = x.place(value)
        parts.append(_rule(at, y.end, at, y.start, _GRID))
        if steps:
            label = _number(value) if x.log else f"{value:,.0f}"
            parts.append(text(at, y.start + 16, label))
    size = f'width="{x.end - x.start:.1f}" height="{y.start - y.end:.1f}"'
    box = f'<rect x="{x.start:.1f}" y="{y.end:.1f}" {size}/>'
    clip = f"c{y.end:.0f}"
    parts.append(f'<clipPath id="{clip}">{box}</clipPath><g clip-path="url(#{clip})">')
    for line in lines:
        parts += _drawn(line, x, y)
    parts.append("</g>")
    parts += [_rule(x.start, y.end, x.start, y.start, _INK), _rule(x.start, y.start, x.end, y.start, _INK)]
    parts.append(upright(16, (y.start + y.end) / 2, name, LABEL))
    return [*parts, *(_legend(x.end, y.end - 8, lines) if legend else ())]


def _drawn(line: Line, x: Axis, y: Axis) -> list[str]:
    places = [(x.place(step), y.place(value)) for step, value in line.points]
    stroke = f'stroke="{line.colour}" stroke-width="{line.width:g}" stroke-opacity="{line.opacity:g}"'
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    route = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
    drawn = [f'<polyline fill="none" {stroke}{dash} points="{route}"/>']
    if line.dots or len(places) == 1:
        drawn += [
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="2.2" fill="{line.colour}"/>'
            for across, down in places
        ]
    return drawn


def _legend(right: float, base: float, lines: Sequence[Line]) -> list[str]:
    parts = []
    for line in reversed(lines):
        right -= _LETTER * TICK * len(line.name)
        parts.append(text(right + 4, base, line.name, anchor="start"))
        parts.append(_rule(right - 18, base - 4, right, base - 4, line.colour, 2.5))
        right -= 32
    return parts


def _rule(x0: float, y0: float, x1: float, y1: float, colour: str, width: float = 1) -> str:
    ends = f'x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"/>'


def _number(value: float) -> str:
    """As short as it is exact: 0, 0.25, 1,500, 2e-05."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    return f"{value:.6g}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:,.6g}"
