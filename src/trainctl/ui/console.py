"""rich's console for text that may come from files: its control characters are shown, not sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from trainctl.runs.printable import shown


class SafeConsole(Console):
    """Sends no control character but rich's own."""

    def __init__(self, stream: TextIO, **options: Any) -> None:
        # What trainctl's streams would escape, this console has escaped already.
        super().__init__(file=cast(TextIO, getattr(stream, "styled", stream)), highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else shown(text), style, control)
