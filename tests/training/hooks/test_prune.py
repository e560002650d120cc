"""Stopping a run that is not worth going on with: asked after each evaluation but the last."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from trainctl.sweep.ledger import Job, Ledger, Row
from trainctl.sweep.pruning import Judge, course_of
from trainctl.training.hooks.prune import Prune
from trainctl.training.run import Control
from trainctl.training.state import State


def run_at(step: int, stop: str | None = None) -> SimpleNamespace:
    control = Control()
    if stop is not None:
        control.stop(stop)
    return SimpleNamespace(state=State(step=step, epoch=step // 10), control=control, total_steps=30)


def test_it_asks_after_each_evaluation_but_the_last() -> None:
    asked = []
    hook = Prune(lambda values: asked.append(values) or "hopeless")
    run = run_at(10)
    hook.evaluated(run, {"val/loss": 2.0})
    assert run.control.reason == "hopeless"
    for other in (run_at(30), run_at(20, stop="no better val/loss")):
        before = other.control.reason
        hook.evaluated(other, {"val/loss": 2.0})
        assert other.control.reason == before
    assert asked == [{"step": 10, "epoch": 1, "val/loss": 2.0}]


def evaluations(directory: Path, values: list[float | str]) -> None:
    directory.mkdir()
    lines = [
        {"step": 10 * epoch, "epoch": epoch, "val/accuracy": value, "samples_per_second": 1.0}
        for epoch, value in enumerate(values, start=1)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_course_is_a_loss_and_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    evaluations(tmp_path / "0", [0.5, "nan", 0.7])
    assert course_of(tmp_path / "0", "val/accuracy", lower_is_better=False) == {1: -0.5, 3: -0.7}
    assert course_of(tmp_path / "0", "val/accuracy", lower_is_better=True) == {1: 0.5, 3: 0.7}
    assert course_of(tmp_path / "1", "val/accuracy", lower_is_better=True) == {}


def judged(ledger: Ledger, job: Job, lower_is_better: bool, value: float, epoch: int) -> str | None:
    built = SimpleNamespace(
        monitor="val/accuracy",
        lower_is_better=lower_is_better,
        run=SimpleNamespace(total_steps=30, train_loader=range(10)),
    )
    judge = Judge(ledger, job, "median", built)  # type: ignore[arg-type]
    return judge({"step": 10 * epoch, "epoch": epoch, "val/accuracy": value})


def test_the_judge_reads_the_other_jobs_and_knows_which_way_is_better(tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path, search={"pruner": "median"})
    jobs = [Job(str(number), number, (), "", {"config.yaml": ""}) for number in range(7)]
    ledger.add(jobs)
    for job in jobs[:5]:
        evaluations(ledger.directory_of(job), [0.5, 0.6, 0.7])
        ledger.write(job, Row(state="done"))
    reason = judged(ledger, jobs[6], False, 0.4, 1)
    assert reason == "pruned at epoch 1: val/accuracy 0.4000 is hopeless beside 5 other jobs (median)"
    assert judged(ledger, jobs[6], False, 0.55, 1) is None
    assert judged(ledger, jobs[6], True, 0.4, 1) is None
    assert judged(ledger, jobs[6], True, 0.55, 1) is not None
    # Carried on, it is judged by its best so far, which it reached before.
    evaluations(ledger.directory_of(jobs[6]), [0.9])
    assert judged(ledger, jobs[6], False, 0.3, 2) is None
    # Those that were pruned are no measure for others.
    ledger.write(jobs[0], Row(state="done", reason="pruned at epoch 3: …"))
    assert judged(ledger, jobs[5], False, 0.4, 1) is None


def test_a_ledger_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    ledger = Ledger.begin(tmp_path, search={"pruner": "median"})
    (tmp_path / "jobs.jsonl").write_text("nonsense\n")
    assert judged(ledger, Job("0", 0, (), ""), False, 0.0, 1) is None
