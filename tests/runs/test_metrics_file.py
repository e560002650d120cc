"""``metrics.jsonl`` as it may be found: whole, torn, absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from trainctl.errors import ConfigError
from trainctl.runs import metrics_file
from trainctl.runs.metrics_file import evaluations, newest, rows, training_seconds


@pytest.mark.parametrize("block", [1, 16, 2**20])
def test_a_damaged_line_is_none_whatever_the_size_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(metrics_file, "_BLOCK", block)
    path = tmp_path / "metrics.jsonl"
    good = b'{"step": 1}\n{"step": 2}\n'
    path.write_bytes(good + b'\n{"st\n3\n1, 2\n' + good)
    assert list(rows(path)) == [{"step": 1}, {"step": 2}, None, None, None, {"step": 1}, {"step": 2}]
    assert list(rows(path, size=len(good))) == [{"step": 1}, {"step": 2}]
    path.write_bytes(b"")
    assert list(rows(path)) == []


@pytest.mark.parametrize(("end", "last"), [(b'{"st', []), (b'{"step": 3}', [{"step": 3}])])
def test_a_last_line_without_its_end_is_read_where_it_is_whole(tmp_path: Path, end: bytes, last: Any) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2}\n' + end)
    assert list(rows(path)) == [{"step": 2}, *last]


def test_of_very_many_steps_some_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = []
    for step in range(1, 1001):
        lines.append(f'{{"step": {step}, "train/loss": 1.0}}\n')
        if step % 50 == 0:
            lines.append(f'{{"step": {step}, "val/loss": 0.5}}\n')
    path.write_text("".join(lines))
    read = [row for row in rows(path, most_steps=100) if row is not None]
    assert 90 <= sum("train/loss" in row for row in read) <= 110
    assert [row["step"] for row in read if "val/loss" in row] == list(range(50, 1001, 50))


def test_the_newest_line_is_the_last_that_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' * 20_000 + b'{"step": 2}\n{"st')
    assert newest(path) == {"step": 2}
    assert newest(tmp_path / "nowhere") == {}


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for read in (evaluations, rows):
        path.write_bytes(b'{"step": 1, "samples_per_second": 1.0}\n' * 100_000)
        found = read(path)
        assert next(found) == {"step": 1, "samples_per_second": 1.0}
        os.truncate(path, 20)
        assert all(row is None or row["step"] == 1 for row in found)


def test_numbers_and_lines_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, settings = tmp_path / "metrics.jsonl", {"train.batch_size": 8}
    good = b'{"step": 2, "samples_per_second": 4.0}\n'
    deep = b'{"samples_per_second": ' + b"[" * 30_000 + b"]" * 30_000 + b"}\n"
    for bad in (deep, b'{"samples_per_second": 1.0, "step": 1' + b"0" * 400 + b"}\n"):
        path.write_bytes(good + bad)
        assert training_seconds(path, settings) == 4.0
        assert newest(path) == {"step": 2, "samples_per_second": 4.0}
    path.write_bytes(good.replace(b"4.0", b"1e999"))
    assert training_seconds(path, settings) is None
    monkeypatch.setattr(metrics_file, "_LONGEST", 2**12)
    os.truncate(path, 2**40)
    for read in (
        lambda: list(evaluations(path)),
        lambda: list(rows(path)),
        lambda: list(rows(path, None, 9)),
    ):
        with pytest.raises(ConfigError, match="a line is longer than 4096 bytes"):
            read()
