"""A table of text, and its lines for a pipe. ``screen`` prints it, ``page`` makes HTML of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

NOTHING = "–"
_LEAST_PATH = 8


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: the heading.
        right: aligned to the right, as numbers are.
        expendable: a narrow terminal leaves the highest number out first; 0 is never left out.
        style: of its cells on a terminal.
        path: of its cells the end says most: a narrow terminal cuts off their beginning.
    """

    name: str
    right: bool = False
    expendable: int = 0
    style: str = ""
    path: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under headings, with a title and a note for a page or screen that shows them."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    note: str = ""

    @property
    def has_headings(self) -> bool:
        return any(column.name for column in self.columns)

    def without(self, number: int) -> Table:
        """The table without one column."""
        columns, rows = self.columns, self.rows
        return replace(
            self,
            columns=columns[:number] + columns[number + 1 :],
            rows=tuple(row[:number] + row[number + 1 :] for row in rows),
        )

    def without_empty_end(self) -> Table:
        """The table without its last column where that has no text in any row."""
        return self if any(row[-1] for row in self.rows) else self.without(len(self.columns) - 1)

    def widths(self) -> list[int]:
        """The width of each column in characters."""
        return [
            max(len(column.name), *(len(row[number]) for row in self.rows), 0)
            for number, column in enumerate(self.columns)
        ]

    def lines(self) -> Iterator[str]:
        """The headings and rows, cells padded to their column."""
        headings = [tuple(column.name for column in self.columns)] if self.has_headings else []
        widths = self.widths()
        for row in (*headings, *self.rows):
            cells = (
                f"{cell:>{width}}" if column.right else f"{cell:<{width}}"
                for cell, width, column in zip(row, widths, self.columns, strict=True)
            )
            yield "  ".join(cells).rstrip()

    def fitted(self, width: int) -> tuple[Table, list[str]]:
        """The table without the expendable columns that ``width`` has no room for, and their names; then with
        paths cut."""
        table, left_out = self, list[str]()
        while table._over(width) > 0:
            gone = max(range(len(table.columns)), key=lambda number: table.columns[number].expendable)
            if not table.columns[gone].expendable:
                break
            left_out.append(table.columns[gone].name)
            table = table.without(gone)
        for number, column in enumerate(table.columns):
            if column.path and (over := table._over(width)) > 0:
                room = max(_LEAST_PATH, table.widths()[number] - over)
                rows = ((*row[:number], _end(row[number], room), *row[number + 1 :]) for row in table.rows)
                table = replace(table, rows=tuple(rows))
        return table, left_out

    def _over(self, width: int) -> int:
        """How many characters the lines are longer than ``width``."""
        return sum(self.widths()) + 2 * (len(self.columns) - 1) - width


def _end(text: str, room: int) -> str:
    return text if len(text) <= room else f"…{text[1 - room :]}"
