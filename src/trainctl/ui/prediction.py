"""How far a prediction has come: a bar on a terminal, nothing in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

Update = Callable[[int, int, int], object]


@contextlib.contextmanager
def progress(total: int, what: str, stream: TextIO | None = None) -> Iterator[Update]:
    """Inside, the result shows how far it is, given what is done of ``total``, samples, and bad ones."""
    stream = stream or sys.stdout
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda done, samples, bad: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=Console(file=stream, highlight=False),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with bar:
        task = bar.add_task("", total=max(1, total))

        def update(done: int, samples: int, bad: int) -> None:
            said = f"{samples:,} {what}s" + (f", {bad:,} bad" if bad else "")
            bar.update(task, completed=done, description=said)

        yield update
