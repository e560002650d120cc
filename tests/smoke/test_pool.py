"""What a config that was not exported itself says of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from trainctl.smoke.cases import Case
from trainctl.smoke.pool import SmokePool
from trainctl.smoke.report import ONCE, PHASES, Ended, Order, Report, Result

MISSING = Result("export onnx", "skipped", reason="--format onnx: onnx is not installed")
OWNER = "model=a"


def pool_of(tmp_path: Path, done: list[Report]) -> SmokePool:
    labels = [OWNER, "model=b", "optim=c", "optim=d"]
    return SmokePool([Case("model", each, (each,)) for each in labels], (), None, tmp_path, 1, done.append)


def end(pool: SmokePool, number: int, once: str) -> None:
    """The life of a case has gone well up to its exports."""
    worker = SimpleNamespace(order=Order(number, pool._cases[number]))
    for phase in PHASES:
        if phase not in ONCE:
            pool.received(worker, ("result", Result(phase, "passed", 0.1)))
    pool.received(worker, ("ended", Ended(once, Path(str(number)))))


def exported(pool: SmokePool, *results: Result) -> None:
    """The first config that is to be exported, is, with these results."""
    worker = SimpleNamespace(order=pool._exports.pop(0))
    used = worker.order.used
    for result in results:
        pool.received(worker, ("result", result))
    pool.received(worker, ("ended", Ended("", used)))


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
    done: list[Report] = []
    pool = pool_of(tmp_path, done)
    end(pool, 0, "one kind")
    end(pool, 1, "another kind")
    end(pool, 2, "one kind")
    assert done == []
    assert len(pool._exports) == 2
    exported(pool, *results)
    assert [report.label for report in done] == [OWNER, "optim=c"]
    found = [each for each in done[1].results if each.phase in ONCE]
    assert [(each.status, each.reason) for each in found] == said
    assert sum(each.seconds for each in found) == 0
    # One that comes later is told at once.
    end(pool, 3, "one kind")
    assert [report.label for report in done] == [OWNER, "optim=c", "optim=d"]
    assert done[2].results[-2:] == found
    exported(pool, *GOOD)
    assert len(done) == 4
