"""The progress of a prediction: a bar on a terminal, nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from trainctl.ui.console import SafeConsole
from trainctl.ui.screen import chosen_mode

Update = Callable[[int, int, int], object]


@contextlib.contextmanager
def progress(total: int, what: str, stream: TextIO | None = None) -> Iterator[Update]:
    """Yield a function that shows progress, given how much of ``total`` is done, samples and bad samples."""
    stream = stream or sys.stdout
    if chosen_mode("auto", stream) == "plain":
        yield lambda done, samples, bad: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=SafeConsole(stream),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with bar:
        task = bar.add_task("", total=max(1, total))

        def update(done: int, samples: int, bad: int) -> None:
            text = f"{samples:,} {what}s" + (f", {bad:,} bad" if bad else "")
            bar.update(task, completed=done, description=text)

        yield update
