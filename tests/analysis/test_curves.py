"""Curves as they are drawn: smoothed, thinned without losing a spike, what is not finite left out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from trainctl.analysis.curves import bounds, read_curves, smooth, thin


def test_smoothing_is_the_corrected_exponential_mean() -> None:
    draw = random.Random(0)
    points = [(step, draw.random()) for step in range(1, 501)]
    keep = 1 - 50 / 500
    weights = [keep ** (99 - age) for age in range(100)]
    expected = sum(w * v for w, (_, v) in zip(weights, points[:100], strict=True)) / sum(weights)
    smoothed = smooth(points)
    assert smoothed[0] == (1, pytest.approx(points[0][1]))
    assert smoothed[99] == (100, pytest.approx(expected))
    assert smooth(points[:20]) == [(step, pytest.approx(value)) for step, value in points[:20]]
    assert smooth([]) == []


@pytest.mark.parametrize("most", [4, 5, 50, 333])
def test_thinning_keeps_the_ends_and_every_extreme(most: int) -> None:
    draw = random.Random(most)
    points = [(step, draw.random()) for step in range(5000)]
    points[1234], points[4321] = (1234, 99.0), (4321, -99.0)
    kept = thin(points, most)
    assert len(kept) <= most
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert bounds([kept]) == bounds([points])
    assert thin(points[:4], most) == points[:4]


def test_what_cannot_be_drawn_is_left_out_and_counted(tmp_path: Path) -> None:
    lines = [
        json.dumps({"step": 1, "epoch": 1, "train/loss": 2.0, "lr": 0.1}),
        json.dumps({"step": 2, "epoch": 1, "train/loss": "nan", "lr": 0.1}),
        '{"step": 3, "train/lo',
        json.dumps({"step": 4, "epoch": 1, "val/loss": 1.5, "val/accuracy": 0.5, "val/f1/cat": 0.1}),
        "[1]",
        json.dumps({"step": True, "train/loss": 1.0}),
        json.dumps({"step": 4, "epoch": 1, "test/loss": 7.0}),
        json.dumps({"step": 10**400, "train/loss": 1.0}),
        json.dumps({"step": 5, "train/loss": 10**400}),
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    curves = read_curves(tmp_path)
    assert curves.train == [(1, 2.0)]
    assert curves.lr == [(1, 0.1), (2, 0.1)]
    assert curves.val == {"val/loss": [(4, 1.5)], "val/accuracy": [(4, 0.5)]}
    assert curves.damaged == 3
    assert read_curves(tmp_path / "nowhere").train == []
