"""Where a command prints its result: with rich on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from trainctl.runs.printable import shown
from trainctl.ui.table import Table

if TYPE_CHECKING:
    from rich.console import Console

_NOTE_WIDTH = 100


def chosen_mode(mode: str, stream: TextIO) -> str:
    """``display.mode`` with ``auto`` decided: rich on a terminal, plain elsewhere."""
    if mode != "auto":
        return mode
    return "rich" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"


class Screen:
    """Prints lines, labelled values and tables to ``stream`` (standard output when None).

    Styles are rich's; plain lines have none. Mode ``none`` prints nothing.
    """

    def __init__(self, stream: TextIO | None = None, mode: str = "auto") -> None:
        self.stream = stream or sys.stdout
        self.mode = chosen_mode(mode, self.stream)
        self._console: Console | None = None
        if self.mode == "rich":
            from trainctl.ui.console import SafeConsole  # what a pipe does not need

            self._console = SafeConsole(self.stream)

    @property
    def width(self) -> int | None:
        """Of the terminal; None where lines may have any length."""
        return None if self._console is None else self._console.width

    @property
    def has_colours(self) -> bool:
        return self._console is not None and not self._console.no_color and self.is_unicode

    @property
    def is_unicode(self) -> bool:
        return self._console is not None and self._console.encoding.startswith("utf")

    def line(self, text: str = "", style: str = "", indent: int = 0) -> None:
        """A line, wrapped by a terminal."""
        if self._console is not None:
            from rich.padding import Padding
            from rich.text import Text

            # A padded empty text would be no line at all.
            padded = Padding(Text(text, style), (0, 0, 0, indent), expand=False)
            self._console.print(padded if text else "")
        elif self.mode == "plain":
            print(f"{'':{indent}}{shown(text)}" if text else "", file=self.stream)

    def pieces(self, pieces: Iterable[tuple[str, str]], *, cut: bool = True) -> None:
        """A line of pieces, each with its style; a terminal cuts it off, or ends it with an ellipsis."""
        if self._console is not None:
            from rich.text import Text

            overflow = "crop" if cut else "ellipsis"
            self._console.print(Text.assemble(*pieces), no_wrap=True, overflow=overflow)  # type: ignore[arg-type]
        else:
            self.line("".join(text for text, _ in pieces).rstrip())

    def pairs(self, pairs: Sequence[tuple[str, str]], styles: Mapping[str, str] | None = None) -> None:
        """A label and a text a line; ``styles`` are those of the texts, by label."""
        if self._console is not None:
            from rich.table import Table as Grid
            from rich.text import Text

            grid = Grid.grid(padding=(0, 2))
            for label, text in pairs:
                grid.add_row(Text(f"  {label}", style="dim"), Text(text, style=(styles or {}).get(label, "")))
            self._console.print(grid)
            return
        width = max((len(label) for label, _ in pairs), default=0)
        for label, text in pairs:
            self.line(f"  {label:<{width}}  {text}")

    def table(
        self,
        table: Table,
        styles: Sequence[str] = (),
        marks: Mapping[tuple[int, int], str] | None = None,
        indent: int = 2,
    ) -> None:
        """The table's title, rows and note; ``styles`` are those of the rows, ``marks`` of single cells."""
        if table.title:
            self.line(table.title, "bold")
        notes = [table.note] if table.note else []
        if self._console is None:
            notes = [line for note in notes for line in textwrap.wrap(note, _NOTE_WIDTH)]
            for line in table.lines():
                self.line(line, indent=indent)
        else:
            fitted, left_out = table.fitted(self._console.width - indent)
            self._grid(fitted, styles, marks or {}, indent)
            if left_out:
                notes.append(f"hidden in this narrow terminal: {', '.join(left_out)}")
        for note in notes:
            self.line(note, "dim", indent)

    def _grid(
        self, table: Table, styles: Sequence[str], marks: Mapping[tuple[int, int], str], indent: int
    ) -> None:
        from rich.padding import Padding
        from rich.table import Table as Grid
        from rich.text import Text

        assert self._console is not None
        grid = Grid(
            box=None,
            padding=(0, 2, 0, 0),
            pad_edge=False,
            header_style="dim",
            show_header=table.has_headings,
        )
        for column in table.columns:
            grid.add_column(
                Text(column.name),
                justify="right" if column.right else "left",
                no_wrap=column.right,
                overflow="fold",
                style=column.style,
            )
        for number, row in enumerate(table.rows):
            cells = [Text(cell, marks.get((number, column), "")) for column, cell in enumerate(row)]
            grid.add_row(*cells, style=styles[number] if styles else "")
        self._console.print(Padding(grid, (0, 0, 0, indent), expand=False))
