"""What a tracker should have been told, read from the run's own ``metrics.jsonl``."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

Points = dict[str, list[tuple[int, float]]]


def told(directory: Path, every: int = 1) -> Points:
    """Step and value by name; of the training steps each so manyth."""
    points: Points = defaultdict(list)
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "train/loss" in row and row["step"] % every:
            continue
        for name, value in row.items():
            if name not in ("step", "epoch"):
                points[name].append((row["step"], float(value)))
    return dict(points)
