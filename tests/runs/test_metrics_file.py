"""``metrics.jsonl`` as it may be found: whole, torn, absent."""

from __future__ import annotations

from pathlib import Path

from trainctl.runs.metrics_file import newest, parse_lines


def test_lines_are_parsed_together_and_one_by_one_alike() -> None:
    good = b'{"step": 1}\n{"step": 2}\n'
    assert parse_lines(good) == ([{"step": 1}, {"step": 2}], 0)
    assert parse_lines(good + b'{"st\n3\n1, 2\n') == ([{"step": 1}, {"step": 2}], 3)
    assert parse_lines(b"") == ([], 0)


def test_the_newest_line_is_the_last_that_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' * 20_000 + b'{"step": 2}\n{"st')
    assert newest(path) == {"step": 2}
    assert newest(tmp_path / "nowhere") == {}
