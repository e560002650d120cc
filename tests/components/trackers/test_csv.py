"""The table: a row a step, a column a value, on a disk that can be read at any time."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from tests.helpers.runs import WORDS, killed_after, record
from tests.helpers.told import Points, told
from trainctl.components.trackers.csv import Csv


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def points(path: Path) -> Points:
    rows = table(path)
    names = [name for name in rows[0] if name != "step"]
    return {name: [(int(row["step"]), float(row[name])) for row in rows if row[name] != ""] for name in names}


def test_a_step_has_one_row_whatever_comes_when(tmp_path: Path) -> None:
    tracker = Csv()
    tracker.start(tmp_path, "name", {})
    tracker.metrics([(1, {"train/loss": 2.0, "lr": 0.1}), (2, {"train/loss": 1.0, "lr": 0.1})])
    assert [row["step"] for row in table(tmp_path / "metrics.csv")] == ["1"]
    tracker.metrics([(2, {"val/loss": 0.5})])
    tracker.metrics([(3, {"train/loss": math.nan, "lr": math.inf})])
    tracker.metrics([(3, {"test/loss, per cent": 7.0})])
    tracker.end("done")
    assert table(tmp_path / "metrics.csv") == [
        {"step": "1", "train/loss": "2.0", "lr": "0.1", "val/loss": "", "test/loss, per cent": ""},
        {"step": "2", "train/loss": "1.0", "lr": "0.1", "val/loss": "0.5", "test/loss, per cent": ""},
        {"step": "3", "train/loss": "nan", "lr": "inf", "val/loss": "", "test/loss, per cent": "7.0"},
    ]


def test_a_run_and_its_resume_give_each_step_once(trainctl, tmp_path: Path) -> None:
    words = (*WORDS, "tracker=csv", "checkpoint.every_steps=1", "checkpoint.keep_last=99")
    assert trainctl(*words, "hydra.run.dir=run").code == 0
    run = tmp_path / "run"
    assert points(run / "metrics.csv") == told(run)
    assert [int(row["step"]) for row in table(run / "metrics.csv")] == list(range(1, 13))
    assert record(run)["trackers"] == {"csv": "ok"}
    # Step 8 ends an epoch: its checkpoint is taken before, and its evaluation is made again.
    for step in (8, 6, 1):
        cut = killed_after(run, step)
        assert trainctl("resume", "cut").code == 0
        assert points(cut / "metrics.csv") == told(cut)


def test_one_that_is_chosen_later_has_the_whole_run(trainctl, tmp_path: Path) -> None:
    assert trainctl(*WORDS, "hydra.run.dir=run", "checkpoint.every_steps=5").code == 0
    outcome = trainctl("resume", "run", "epochs=4", "tracker=[csv]", "tracker.csv.every=2")
    assert outcome.code == 0, outcome.err
    assert "changed: tracker.csv.name: null → csv (the new value wins)" in outcome.out
    assert points(tmp_path / "run/metrics.csv") == told(tmp_path / "run", every=2)
    outcome = trainctl("resume", "run", "epochs=5", "tracker=none")
    assert outcome.code == 0, outcome.err
    assert "trackers" not in record(tmp_path / "run")
