"""Ranks that are forked from the warm test process: to start one anew takes the seconds of torch's import."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from trainctl.checkpoint.format import read_checkpoint
from trainctl.cli import rank
from trainctl.cli.main import answered
from trainctl.distributed import launch
from trainctl.smoke import two_devices


class ForkedRank(two_devices.ForkedRank):
    """A rank that says where it hangs, should it hang; all of them are noted."""

    started: ClassVar[list[ForkedRank]] = []

    def __init__(self, command: list[str], **others: Any) -> None:
        assert command[-2:] == ["-m", "trainctl.cli.rank"]
        super().__init__(command, **others)
        self.started.append(self)

    def live(self) -> None:
        faulthandler.dump_traceback_later(20, file=sys.stderr)
        code = answered(rank.follow)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@pytest.fixture
def warm_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The other ranks of a test's runs are forks of the test process, and none is left after it."""
    monkeypatch.setattr(launch, "Process", ForkedRank)
    # Where a backward pass through FSDP is a process's first, torch refuses those of its forks.
    torch.ones((), requires_grad=True).backward()
    ForkedRank.started.clear()
    yield
    left = [rank.pid for rank in ForkedRank.started if rank.returncode is None]
    assert not left


def rows(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def weights(run: str) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint, whatever number of processes wrote it."""
    return dict(read_checkpoint(sorted(Path(run, "checkpoints").glob("step-*"))[-1]).model)


def assert_same_run(one: str, other: str, tolerance: float = 2e-6) -> None:
    """Every loss, every evaluation that both have, and the final weights.

    With a wider ``tolerance`` accuracies are left out: a sample between two classes may fall on either side.
    """
    mine, theirs = ({(row["step"], *row): row for row in rows(run)} for run in (one, other))
    both = [(row, theirs[key]) for key, row in mine.items()]
    assert len(both) > 8
    for left, right in both:
        for key, value in left.items():
            if key in ("samples_per_second", "seconds") or (tolerance > 1e-5 and "accuracy" in key):
                continue
            assert right[key] == pytest.approx(value, rel=tolerance, abs=tolerance), (key, left["step"])
    final = weights(other)
    for name, tensor in weights(one).items():
        assert torch.allclose(tensor, final[name], rtol=1e-4, atol=20 * tolerance), name
