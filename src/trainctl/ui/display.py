"""The display of a run: rich on a terminal, plain lines elsewhere, or none."""

from __future__ import annotations

import sys
from typing import TextIO

from trainctl.training.display import Display
from trainctl.ui.plain import Plain
from trainctl.ui.screen import chosen_mode


def make_display(mode: str, every: int | None, stream: TextIO | None = None) -> Display:
    """The display for ``display.mode``; ``auto`` is rich on a terminal and plain lines elsewhere."""
    stream = stream or sys.stdout
    mode = chosen_mode(mode, stream)
    if mode == "none":
        return Display()
    if mode == "plain":
        return Plain(stream, every)
    from trainctl.ui.live import Rich  # rich itself, which a pipe does not need

    return Rich(stream, every)
