"""The table at the end of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from trainctl.ui.display import number, visible

_REASON = 70


def job_table(rows: Sequence[tuple[str, Mapping[str, Any], str]], stream: TextIO | None = None) -> None:
    """One line a job: its words, how it ended, its best values or the reason, its directory."""
    stream = stream or sys.stdout
    lines = [("job", "status", "best", "where")]
    lines += [(words, str(values["status"]), _outcome(values), where) for words, values, where in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    print(file=stream)
    for line in lines:
        print(
            "  ".join([*(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)), line[3]]),
            file=stream,
        )


def _outcome(values: Mapping[str, Any]) -> str:
    if values["status"] != "done":
        reason = str(values.get("reason") or "")
        return reason if len(reason) <= _REASON else reason[: _REASON - 1] + "…"
    best = values.get("best") or values.get("last") or {}
    return "  ".join(
        f"{name} {number(value)}" for name, value in visible(best).items() if name not in ("step", "epoch")
    )
