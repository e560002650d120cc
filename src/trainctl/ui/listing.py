"""What ``ls`` prints: names with a line each, or one component's arguments."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TextIO


class Listing:
    """Prints plain text, cut to the terminal's width; a pipe gets whole lines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        terminal = self._stream.isatty()
        self._width = shutil.get_terminal_size().columns if terminal else None

    def group(self, name: str, members: Mapping[str, str]) -> None:
        """A group's options with a line each."""
        print(name, file=self._stream)
        width = max(map(len, members), default=0)
        for option, summary in members.items():
            line = f"  {option:<{width}}  {summary}".rstrip()
            print(_fitted(line, self._width), file=self._stream)

    def component(self, title: str, doc: str, rows: Sequence[tuple[str, str, str]]) -> None:
        """A component's docstring, then its arguments with default and type."""
        print(title, file=self._stream)
        print(textwrap.indent(doc.rstrip(), "  "), file=self._stream)
        print(file=self._stream)
        widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
        for key, default, kind in rows:
            print(f"  {key:<{widths[0]}}  {default:<{widths[1]}}  {kind}", file=self._stream)
        if not rows:
            print("  no arguments", file=self._stream)

    def text(self, title: str, body: str) -> None:
        """An option that is no component: its file."""
        print(title, file=self._stream)
        print(textwrap.indent(body, "  "), file=self._stream)


def _fitted(line: str, width: int | None) -> str:
    """A line cut between words where the terminal ends."""
    if width is None or len(line) <= width:
        return line
    return line[: width - 1].rpartition(" ")[0].rstrip(" ,;:") + " …"
