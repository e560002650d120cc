"""The answer at the end of a sweep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO


def show_answer(directory: Path, stream: TextIO | None = None) -> None:
    """The ranked table of the sweep in ``directory``."""
    from trainctl.analysis.ranking import compare
    from trainctl.ui.compare import show

    show(compare([directory]), stream or sys.stdout)
