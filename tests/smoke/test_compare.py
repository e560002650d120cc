"""What the phase `compare` takes for another run, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.lifecycles import built
from trainctl.smoke.lifecycle import LifecycleTest
from trainctl.training.hooks import metrics_log


def two_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> LifecycleTest:
    """A life with two runs of the same steps, whose evaluations have taken other times.

    An epoch is one step: what an evaluation has taken stands in metrics.jsonl before the last checkpoint.
    """
    life, _ = built(folder, "dataset=digits", "model=linear", settings=("train.batch_size=32",))
    life._train()
    for speed, name in ((1.0, "uninterrupted"), (123456.7, "killed")):
        monkeypatch.setattr(metrics_log, "round", lambda *_, speed=speed: speed, raising=False)
        life._run(folder / name)
    sizes = [(folder / name / "metrics.jsonl").stat().st_size for name in ("uninterrupted", "killed")]
    assert sizes[0] < sizes[1]
    return life


def test_the_times_of_evaluations_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_runs(tmp_path, monkeypatch)._compare()


def test_a_line_that_is_there_twice_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = two_runs(tmp_path, monkeypatch)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + metrics.read_text().splitlines()[-1] + "\n")
    with pytest.raises(Exception, match=r"lines of metrics\.jsonl: \d uninterrupted, \d resumed"):
        life._compare()
