"""What a part of benchmarks/gpu.py has found. Imports no torch."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any


class Rows:
    """What a part has found, written whenever there is more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"rows": []}

    def put(self, **content: Any) -> None:
        self.content |= content
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(self.content))
        temporary.replace(self.path)

    def add(self, **row: Any) -> None:
        self.put(rows=[*self.content["rows"], row])


def spread(ratios: list[float]) -> str:
    """Their median, with the lowest and the highest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
