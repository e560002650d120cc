"""What ``ls`` prints: names with a line each, or one component's arguments."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

from trainctl.ui.table import Column, Table


class Listing:
    """Prints plain text, cut to the width of a terminal; a pipe gets whole lines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        terminal = self._stream.isatty()
        self._width = shutil.get_terminal_size().columns if terminal else None

    def group(self, name: str, members: Mapping[str, str]) -> None:
        """A group's options with a line each."""
        print(name, file=self._stream)
        for line in _lines(list(members.items())):
            print(_fitted(line, self._width), file=self._stream)

    def component(self, title: str, doc: str, rows: Sequence[tuple[str, str, str]]) -> None:
        """A component's docstring, then its arguments with default and type."""
        print(title, file=self._stream)
        print(textwrap.indent(doc.rstrip(), "  "), file=self._stream)
        print(file=self._stream)
        for line in _lines(rows) if rows else ("  no arguments",):
            print(line, file=self._stream)

    def text(self, title: str, body: str) -> None:
        """An option that is no component: its file."""
        print(title, file=self._stream)
        print(textwrap.indent(body, "  "), file=self._stream)


def _lines(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    columns = tuple(Column("") for _ in rows[0]) if rows else ()
    yield from (f"  {line}" for line in Table(columns, tuple(rows)).lines())


def _fitted(line: str, width: int | None) -> str:
    """A line cut between words where the terminal ends."""
    if width is None or len(line) <= width:
        return line
    return line[: width - 1].rpartition(" ")[0].rstrip(" ,;:") + " …"
