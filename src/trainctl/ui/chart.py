"""Curves drawn with characters: dots of Braille, or a symbol a curve where there are no colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Line = list[tuple[str, str]]
"""A line as pieces of text, each with a rich style."""

Points = Sequence[tuple[float, float]]
_BRAILLE = 0x2800
# The bit of each of a character's dots, two wide and four high.
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


@dataclass(frozen=True)
class Area:
    """What is drawn: x from ``left`` to ``right``, y from ``bottom`` to ``top``, on so many characters."""

    left: float
    right: float
    bottom: float
    top: float
    columns: int
    rows: int

    def dot(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is, in dots from the upper left; the middle where the area has no extent."""
        across = (x - self.left) / (self.right - self.left) if self.right > self.left else 0.5
        up = (y - self.bottom) / (self.top - self.bottom) if self.top > self.bottom else 0.5
        return across * (2 * self.columns - 1), (1.0 - up) * (4 * self.rows - 1)

    def height(self, row: int) -> float:
        """The y of a row of characters, the first at the top and the last at the bottom."""
        return self.top - (self.top - self.bottom) * row / (self.rows - 1)


def draw(
    curves: Sequence[Sequence[Points]], area: Area, symbols: str, colours: Sequence[str]
) -> list[list[tuple[str, str]]]:
    """The area's characters by row, each with its style; a space where nothing is.

    A curve is one or several lines, the first curve is drawn in front. ``symbols`` has a character a curve;
    where it is empty they are drawn as dots in ``colours``. What is outside the area is cut off.
    """
    bits = [[0] * area.columns for _ in range(area.rows)]
    owner = [[-1] * area.columns for _ in range(area.rows)]
    high = 4 * area.rows
    for index in reversed(range(len(curves))):
        for points in curves[index]:
            places = [area.dot(*point) for point in points]
            # A loss that explodes would take dots without end.
            for x, y in _dots([(x, min(max(y, -high), 2 * high)) for x, y in places]):
                if 0 <= y < high:
                    bits[y // 4][x // 2] |= _BITS[y % 4][x % 2]
                    owner[y // 4][x // 2] = index

    def cell(mask: int, index: int) -> tuple[str, str]:
        if index < 0:
            return " ", ""
        if symbols:
            return symbols[index], ""
        return chr(_BRAILLE + mask), colours[index % len(colours)]

    return [[cell(*each) for each in zip(*row, strict=True)] for row in zip(bits, owner, strict=True)]


def _dots(places: Sequence[tuple[float, float]]) -> Iterator[tuple[int, int]]:
    """The dots of a line through all places."""
    if places:
        yield round(places[0][0]), round(places[0][1])
    for (x0, y0), (x1, y1) in pairwise(places):
        count = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
        for part in range(1, count + 1):
            share = part / count
            yield round(x0 + share * (x1 - x0)), round(y0 + share * (y1 - y0))
