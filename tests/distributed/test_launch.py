"""The processes of a run, and where they write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trainctl.distributed.launch import open_rank_log
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
