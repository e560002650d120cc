"""What a config that was not exported itself says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainctl.smoke.cases import Case
from trainctl.smoke.pool import SmokePool
from trainctl.smoke.report import ONCE, PHASES, Report, Result

MISSING = Result("export onnx", "skipped", reason="--format onnx: onnx is not installed")
OWNER = "model=a"


def end(pool: SmokePool, number: int, key: str, exported: Sequence[Result] = ()) -> None:
    """The lifecycle of a case has gone well up to its exports."""
    answers: list[bool] = []
    worker = SimpleNamespace(order=(number, None), send=answers.append)
    for phase in PHASES:
        if phase not in ONCE:
            pool.received(worker, ("result", Result(phase, "passed", 0.1)))
    pool.received(worker, ("export", key))
    assert answers == [bool(exported)]
    for result in exported:
        pool.received(worker, ("result", result))
    pool.received(worker, ("ended", "" if exported else key))


GOOD = [Result(phase, "passed", 2.0) for phase in ONCE]


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (GOOD, [("skipped", f"exported with {OWNER}")] * 2),
        (
            [GOOD[0], MISSING],
            [
                ("skipped", f"exported with {OWNER}"),
                ("skipped", "not exported: --format onnx: onnx is not installed"),
            ],
        ),
        (
            [
                Result("export torch", "failed", 1.0, "it branches"),
                Result("export onnx", "skipped", reason="after failed export torch"),
            ],
            [("failed", f"failed with {OWNER}: it branches"), ("skipped", "after failed export torch")],
        ),
    ],
)
def test_others_of_its_kind_wait_for_the_result(
    tmp_path: Path, results: list[Result], said: list[tuple[str, str]]
) -> None:
    labels, done = [OWNER, "model=b", "optim=c", "optim=d"], list[Report]()
    pool = SmokePool([Case("model", each, (each,)) for each in labels], (), None, tmp_path, 1, done.append)
    # Another one with the same program asks while the first is at its exports.
    pool._exporting["one program"] = 0
    end(pool, 2, "one program")
    assert done == []
    end(pool, 0, "one program", results)
    assert [report.label for report in done] == [OWNER, "optim=c"]
    found = [each for each in done[1].results if each.phase in ONCE]
    assert [(each.status, each.reason) for each in found] == said
    assert sum(each.seconds for each in found) == 0
    end(pool, 1, "another program", GOOD)
    # One that comes later is told at once.
    end(pool, 3, "one program")
    assert [report.label for report in done] == [OWNER, "optim=c", "model=b", "optim=d"]
    assert done[3].results[-2:] == found


def test_others_are_told_when_the_exporting_process_dies(tmp_path: Path) -> None:
    done: list[Report] = []
    cases = [Case("model", each, (each,)) for each in (OWNER, "optim=b")]
    pool = SmokePool(cases, (), None, tmp_path, 1, done.append)
    pool._exporting["one program"] = 0
    end(pool, 1, "one program")
    for phase in PHASES[:-2]:
        pool.reports[0].enter(Result(phase, "passed"))
    pool.died(SimpleNamespace(order=(0, cases[0])), "its process died")
    assert [report.failed.reason for report in done] == [
        "its process died",
        f"failed with {OWNER}: its process died",
    ]
