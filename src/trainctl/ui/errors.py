"""How errors are shown: what is wrong, what to type instead, no traceback."""

from __future__ import annotations

import os
import sys
from typing import TextIO, cast

from trainctl.errors import TrainctlError
from trainctl.runs.printable import shown
from trainctl.runs.secrets import masked


def show_error(error: TrainctlError, stream: TextIO | None = None) -> None:
    """Print one or two lines for each problem to standard error; where that is no terminal, without values
    that a config has of the environment."""
    stream = stream or sys.stderr
    written = shown if stream.isatty() else lambda text: shown(masked(text))
    label = "stopped" if error.status in ("interrupted", "terminated") else "error"
    # The colours are sent as they are, what the message says is not.
    stream = cast(TextIO, getattr(stream, "styled", stream))
    red, dim, plain = ("\033[1;31m", "\033[2m", "\033[0m") if _coloured(stream) else ("", "", "")
    for problem in error.problems:
        print(f"{red}{label}:{plain} {written(problem.message)}", file=stream)
        if problem.remedy:
            print(f"{dim}       {written(problem.remedy)}{plain}", file=stream)


def _coloured(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
