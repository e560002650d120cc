"""Large tables come out as the careful reader reads them; a second run reads none."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from pyarrow import parquet as parquet_writer

from trainctl.components.datasets.csv import csv
from trainctl.components.datasets.parquet import parquet
from trainctl.data.progress import shown_by
from trainctl.data.tables import bulk, cache, pieces, text_file, transform
from trainctl.data.types import Data
from trainctl.errors import ConfigError

ROWS = 60


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is a large one, its pieces and its few texts are very few."""
    monkeypatch.setattr(text_file, "_LARGE", 0)
    monkeypatch.setattr(pieces, "_PIECE", 150)
    monkeypatch.setattr(pieces, "_CAREFUL_ROWS", 7)
    monkeypatch.setattr(bulk, "_FEW", 6)
    monkeypatch.setattr(bulk, "_MANY", 30)


def outcome(content: bytes, **arguments: Any) -> Any:
    """All that reading a table results in: the data, or the errors."""
    Path("t.csv").write_bytes(content)
    try:
        data = csv("t.csv", **{"test": 0.3, **arguments})
    except ConfigError as error:
        return [(problem.message, problem.remedy) for problem in error.problems]
    assert data.test is not None
    tensors = [data.train.inputs, data.train.targets, data.test.inputs, data.test.targets]
    facts = (data.task, data.classes, data.input_shape, data.note, data.report, data.reading)
    return (*facts, *((each.dtype, each.shape, each.numpy().tobytes()) for each in tensors))


CELLS = {
    "plain": lambda row: f"{row * 0.37:.4f}",
    "whole": lambda row: str(row * 3),
    "leading zeros": lambda row: f"{row:03d}",
    "a late code": lambda row: "007" if row == ROWS - 4 else f"{row}.5e-05",
    "small numbers": lambda row: f"{row % 7}E-05",
    "signs": lambda row: f"{'+-'[row % 2]}{row}.5",
    "exponents": lambda row: f"{row}.5e{row % 40 - 20}",
    "2^53": lambda row: str(2**53 + row),
    "thousands": lambda row: f'"{row * 1000 + 5:,}"',
    "two readings": lambda row: f"1.{row:03d}" if row % 2 else str(row),
    "marks": lambda row: ("NA", "", "nan", "-", "N/A", '""')[row % 6] if row % 5 == 0 else f"{row}.25",
    "a late text": lambda row: "oops" if row == ROWS - 3 else f"{row}.25",
    "a late infinity": lambda row: "inf" if row == ROWS - 3 else f"{row}.25",
    "too large": lambda row: "1e39" if row == ROWS - 9 else f"{row}.25",
    "odd floats": lambda row: ("1_0", "0x1p3", "٣", "1.", ".5")[row % 5],
    "a few floats": lambda row: ("1.", ".5", "+2", "-0", "1E3")[row % 5] + "0" * 0,
    "texts": lambda row: f'"{("a, b", "c", " d ", "é", "NA", "say x")[row % 6]}"',
    "lines": lambda row: '"two\nlines"' if row % 7 == 0 else f"t{row % 3}",
    "many texts": lambda row: f"name {row // 2}",
    "spaces": lambda row: f"  {row}.5 \t",
    "odd spaces": lambda row: f"\u00a0{row}.5\u2003",
    "composed": lambda row: ("e\u0301", "\u00e9", "x")[row % 3],
    "a quote inside": lambda row: f'{row}" pipe' if row > 40 else f"k{row % 3}",
    "flags": lambda row: ("true", "False", "")[row % 3],
    "dates": lambda row: f"2020-01-{row % 28 + 1:02d}",
    "dates, day first": lambda row: f"{row % 28 + 1}/{row % 12 + 1}/2020 1:{row % 60:02d} PM",
    "percent": lambda row: f"{row}.5%",
    "tiny": lambda row: f"{row}e-400",
    "digits": lambda row: f"0.{row + 1:018d}",
}


@pytest.mark.parametrize("kind", CELLS)
def test_a_large_table_is_read_like_a_small_one(kind: str, request: pytest.FixtureRequest) -> None:
    lines = [f"{row}.5,{CELLS[kind](row)},{(row * 7 % 13) / 4}" for row in range(ROWS)]
    text = "\n".join(["n,a,y", *lines, ""])
    cases: list[tuple[bytes, dict[str, Any]]] = [
        (text.encode(), {}),
        (text.encode(), {"target": "a", "bad_rows": "skip"}),
        (text.encode(), {"categories": ["a"], "missing": "drop", "missing_marks": []}),
        (text.encode(), {"task": "classification", "target": "a", "decimal": "."}),
    ]
    expected = [outcome(content, **arguments) for content, arguments in cases]
    request.getfixturevalue("large")
    for (content, arguments), small in zip(cases, expected, strict=True):
        assert outcome(content, **arguments) == small, arguments


def _tables() -> dict[str, tuple[bytes, dict[str, Any]]]:
    rows = [f"{row}.5,{row % 4},{row / 8}" for row in range(ROWS)]
    text = "\n".join(["n,k,y", *rows, ""])

    def with_line(number: int, line: str) -> bytes:
        return "\n".join(["n,k,y", *rows[:number], line, *rows[number:], ""]).encode()

    return {
        "crlf": (text.replace("\n", "\r\n").encode(), {}),
        "cr": (text.replace("\n", "\r").encode(), {}),
        "mixed": (text.replace("\n", "\r", 30).encode(), {}),
        "mark": (text.encode("utf-8-sig"), {}),
        "utf-16": (text.replace("n,", "é,").encode("utf-16"), {}),
        "cp1252": (text.replace("n,", "é,").encode("cp1252"), {}),
        "gzip": (gzip.compress(text.encode()), {}),
        "not utf-8": (text.encode() + b"\xff,1,2\n", {"encoding": "utf-8"}),
        "no end": (text.rstrip("\n").encode(), {}),
        "blank lines": (text.replace("\n", "\n\n").encode(), {}),
        "empty rows": (with_line(50, ' , ,""'), {}),
        "a long row": (with_line(50, "1,2,3,4"), {}),
        "long rows left out": (with_line(50, "1,2,3,4"), {"bad_rows": "skip"}),
        "a short row": (with_line(55, "1,2"), {}),
        "a title": (b"a title\n" + text.encode(), {}),
        "a title left out": (b"a title\n" + text.encode(), {"skip_lines": 1}),
        "a quote without an end": (with_line(50, '1,"2,3'), {}),
        "text after a quote": (with_line(50, '1,"2"x,3'), {}),
        "spaces before quotes": (with_line(50, '1, "2", "3"'), {}),
        "a bad cell": (with_line(57, "1,2,x"), {}),
        "end of DOS": (text.encode() + b"\x1a", {}),
        "tabs": (text.replace(",", "\t").encode(), {}),
        "aligned": (text.replace(",", "   ").replace("\n", " \n ").encode(), {}),
        "semicolons": (text.replace(",", ";").replace(".", ",").encode(), {}),
        "no header": (text.partition("\n")[2].encode(), {}),
        "R": (("k,y\n" + "\n".join(f"r{row},{row % 4},{row / 8}" for row in range(ROWS))).encode(), {}),
    }


@pytest.mark.parametrize("case", _tables())
def test_odd_files_are_read_the_same(case: str, request: pytest.FixtureRequest) -> None:
    content, arguments = _tables()[case]
    small = outcome(content, **arguments)
    request.getfixturevalue("large")
    assert outcome(content, **arguments) == small


def test_random_cells(request: pytest.FixtureRequest) -> None:
    draw = random.Random(0)
    cells = [
        "1",
        "-2.5",
        "007",
        "",
        "NA",
        '"a"',
        '"b ""c"""',
        " x",
        "1,5",
        '"1,500"',
        "é",
        '"p\nq"',
        "+3",
        "1e5",
    ]
    texts = []
    for _ in range(12):
        columns = [draw.sample(cells, 4) for _ in range(3)]
        rows = [",".join(draw.choice(column) for column in columns) for _ in range(40)]
        texts.append("\n".join(["a,b,c", *rows]).encode())
    small = [outcome(text, bad_rows="skip") for text in texts]
    request.getfixturevalue("large")
    assert [outcome(text, bad_rows="skip") for text in texts] == small


# ------------------------------------------------------------------ cache


def _big(name: str) -> str:
    rows = [f"{row}.5,{'ab'[row % 2]},{row % 3}" for row in range(ROWS)]
    Path(name).write_text("\n".join(["n,k,y", *rows, ""]))
    return name


def _content(data: Data) -> Any:
    assert data.test is not None
    parts = (data.train.inputs, data.train.targets, data.test.inputs, data.test.targets)
    return data.reading, data.report, data.classes, [(each.dtype, each.tolist()) for each in parts]


def test_a_second_run_reads_the_cache_and_a_changed_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = csv(_big("t.csv"), target="y")
    monkeypatch.setattr(cache, "SMALLEST", 1)
    first = csv("t.csv", target="y")
    assert "and cached in" in first.note
    second = csv("t.csv", target="y")
    assert second.note == f"{plain.note}; cached"
    assert _content(first) == _content(second) == _content(plain)
    assert csv("t.csv", target="y", like=second.reading).note.endswith("; cached")
    assert "and cached in" in csv("t.csv", target="n").note
    assert "cached" not in csv("t.csv", target="y", cache=False).note
    stored = next(Path(".t.csv.trainctl").glob("*"))
    for torn in (b"", stored.read_bytes()[:-9]):
        for each in Path(".t.csv.trainctl").glob("*"):
            each.write_bytes(torn)
        assert _content(csv("t.csv", target="y")) == _content(plain)
    Path("t.csv").write_text(Path("t.csv").read_text().replace("a", "c"))
    assert csv("t.csv", target="y").reading["columns"][1]["categories"] == ["b", "c"]


def test_without_a_place_for_the_cache_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALLEST", 1)
    monkeypatch.setattr(cache, "_places", lambda file, sources: [Path("t.csv/no/folder")])
    assert "not cached: Not a directory" in csv(_big("t.csv"), target="y").note


def test_parquet_is_cached_like_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pyarrow.table({"n": pyarrow.array([1.5, 2.5, 3.5] * 9), "y": pyarrow.array(["a", "b", "c"] * 9)})
    parquet_writer.write_table(table, "t.parquet")
    monkeypatch.setattr(cache, "SMALLEST", 1)
    assert _content(parquet("t.parquet")) == _content(parquet("t.parquet"))
    assert parquet("t.parquet").note.endswith("; cached")


def test_progress_is_told_and_statistics_are_summed_by_blocks(
    large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, float]] = []
    with shown_by(lambda what, part: told.append((what, part))):
        csv(_big("t.csv"))
    assert told[0][0] == "reading t.csv"
    assert all(0 <= part <= 1 for _, part in told)
    inputs = torch.randn(50, 3)
    inputs[3, 1] = torch.nan
    whole = transform.column_statistics(inputs, torch.float64)
    monkeypatch.setattr(transform, "_BLOCK", 7)
    torch.testing.assert_close(transform.column_statistics(inputs, torch.float64), whole)
