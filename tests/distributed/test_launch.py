"""The processes of a run, and where they write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainctl.distributed.launch import LEFT_ALONE, Ranks, open_rank_log
from trainctl.errors import UnsafeInputError


@pytest.mark.parametrize(
    "plant", [lambda path, other: path.symlink_to(other), lambda path, other: os.mkfifo(path)]
)
def test_a_log_is_not_written_through_what_others_put_there(
    plant: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "logs" / "rank-1.log"
    path.parent.mkdir()
    plant(path, tmp_path / "other")
    with pytest.raises(UnsafeInputError, match=r"rank-1\.log is not a regular file"):
        open_rank_log(tmp_path, 1)
    assert not (tmp_path / "other").exists()


def test_a_log_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        with open_rank_log(tmp_path, 1) as log:
            log.write(b"line\n")
    assert (tmp_path / "logs" / "rank-1.log").read_bytes() == b"line\n" * 2


def ranks_that_ended(directory: Path, *codes: int | None) -> Ranks:
    ranks = Ranks(len(codes) + 1, directory)
    ranks._children = [SimpleNamespace(poll=lambda code=code: code) for code in codes]  # type: ignore[misc]
    return ranks


def test_the_one_that_failed_is_named_not_those_it_left_alone(tmp_path: Path) -> None:
    with open_rank_log(tmp_path, 2) as log:
        log.write(b"Traceback\nerror: no memory\n       buy some\n")
    failed = ranks_that_ended(tmp_path, LEFT_ALONE, 2).failure(wait=0.0)
    assert failed is not None
    assert (str(failed), failed.exit_code) == ("rank 2 ended with exit code 2: no memory", 2)
    assert failed.problems[0].remedy.startswith("buy some; see ")
    killed = ranks_that_ended(tmp_path, LEFT_ALONE, -9).failure(wait=0.0)
    assert str(killed) == "rank 2 was killed by signal 9"


def test_the_one_that_hangs_is_the_one_that_still_runs(tmp_path: Path) -> None:
    ranks = ranks_that_ended(tmp_path, LEFT_ALONE, None)
    assert str(ranks.failure(wait=0.0, timeout=7.0)) == "rank 2 did not answer for 7 s"
    assert ranks.failure(wait=0.0) is None
    assert "rank 0 did not answer" in str(ranks._left())
    assert ranks_that_ended(tmp_path, None, 0, 130, 143)._left() is None
