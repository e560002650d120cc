"""A job that SLURM stopped goes back into its queue by the handler that submitit has set up."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from trainctl.sweep.hydra_task import queue_again
from trainctl.training.interrupts import handled

LATE = subprocess.CalledProcessError(1, ["scontrol", "requeue", "1"])


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """What the handler raises, call by call."""
    found: list[BaseException] = []

    def checkpoint_and_try_requeue(number: int, frame: object) -> None:
        raise found.pop(0)

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with handled([signal.SIGUSR2], checkpoint_and_try_requeue):
        yield found


def test_it_exits_once_the_job_is_queued_although_slurm_answers_late(answers: list[BaseException]) -> None:
    answers += [LATE, SystemExit(-1)]
    with pytest.raises(SystemExit):
        queue_again()
    assert answers == []


@pytest.mark.parametrize("said", [[LATE] * 3, [RuntimeError("timed-out too many times")]])
def test_it_returns_where_the_job_is_refused(
    answers: list[BaseException], said: list[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    answers += said
    queue_again()
    assert answers == []
    assert caplog.text.count("the job is not queued again") == len(said)


def test_jobs_of_other_executors_are_left_alone(
    answers: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    queue_again()
