"""Rows of Parquet, Arrow and JSON Lines files are predicted like the same rows in CSV."""

from __future__ import annotations

import csv
import json
import random
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

_SHORT = ("epochs=2", "model.hidden=[4]", "threads=1", "display.mode=none", "hydra.run.dir=run")


def rows(count: int) -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [
        {
            "width": round(draw.gauss(3, 1), 3),
            "colour": draw.choice(["red", "blue", "gr\u00fcn"]),
            "round": draw.random() < 0.5,
            "day": datetime(2020, 1, 1) + timedelta(days=draw.randrange(900)),
            "count": draw.randrange(90),
            "y": draw.choice("ab"),
        }
        for _ in range(count)
    ]


def as_text(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else value


def write(found: list[dict[str, Any]], path: str, names: list[str] | None = None) -> None:
    table = pyarrow.Table.from_pylist(found).select(names or list(found[0]))
    if path.endswith(".csv"):
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(found[0])
            writer.writerows([as_text(value) for value in row.values()] for row in found)
    elif path.endswith(".jsonl"):
        lines = [json.dumps({key: str(v) if key == "day" else v for key, v in row.items()}) for row in found]
        Path(path).write_text("\n".join(lines) + "\n")
    elif path.endswith(".arrow"):
        opening = ipc.new_stream if "stream" in path else ipc.new_file
        with opening(path, table.schema) as stored:
            stored.write_table(table)
    else:
        parquet.write_table(table, path, row_group_size=10)


def predicted(trainctl, source: str) -> str:
    outcome = trainctl("predict", "run", "--input", source, "--output", "out.csv", "--batch-size", "7")
    assert outcome.code == 0, outcome.err
    return Path("out.csv").read_text()


@pytest.mark.parametrize("trained", ["csv", "parquet"])
def test_the_same_rows_in_any_form_have_the_same_predictions(trained: str, trainctl) -> None:
    write(rows(120), f"table.{trained}")
    assert trainctl(f"dataset={trained}", f"dataset.path=table.{trained}", *_SHORT).code == 0
    new = rows(30)
    new[3]["width"] = new[4]["colour"] = None
    new[7]["colour"] = "pink"
    write(new, "new.csv")
    expected = predicted(trainctl, "new.csv")
    assert len(expected.splitlines()) == 31
    for name in ("new.parquet", "new.arrow", "stream.arrow", "new.jsonl"):
        write(new, name)
        assert predicted(trainctl, name) == expected
    write(new, "order.parquet", ["count", "y", "day", "round", "colour", "width"])
    assert predicted(trainctl, "order.parquet") == expected


def test_columns_of_other_types_are_read_as_those_of_training_or_named(trainctl) -> None:
    write(rows(120), "table.parquet")
    assert trainctl("dataset=parquet", "dataset.path=table.parquet", *_SHORT).code == 0
    good = {"width": ["1.5", "x", None], "colour": [1, 2, 3], "round": [True, False, None], "y": ["a"] * 3}
    good |= {"day": [datetime(2020, 1, 1)] * 3, "count": [1.5, float("inf"), float("nan")]}
    parquet.write_table(pyarrow.table(good), "odd.parquet")
    errors = [row["error"] for row in csv.DictReader(predicted(trainctl, "odd.parquet").splitlines())]
    assert errors == ["", "column 1 (width): 'x' is not a number", ""]
    for name, values, said in (
        ("day", [5, 6, 7], "column 5 (day): another type, the run was trained on times"),
        ("count", [[1]] * 3, "the run was trained on a number"),
    ):
        parquet.write_table(pyarrow.table({**good, name: values}), "other.parquet")
        outcome = trainctl("predict", "run", "--input", "other.parquet", "--output", "none.csv")
        assert (outcome.code, said in outcome.err) == (2, True), outcome.err
    assert not Path("none.csv").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.parquet", b"PAR1 and no more", "cut.parquet cannot be read"),
        ("cut.jsonl", b'{"width": 1\n', "write an object a line"),
        ("empty.jsonl", b"\n\n", "has no rows"),
        ("list.json", b"[1]", "write an object a line"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: bytes, said: str, trainctl) -> None:
    write(rows(60), "table.parquet")
    assert trainctl("dataset=parquet", "dataset.path=table.parquet", *_SHORT).code == 0
    Path(name).write_bytes(content)
    outcome = trainctl("predict", "run", "--input", name, "--output", "out.csv")
    assert (outcome.code, said in outcome.err) == (2, True), outcome.err


def test_columns_of_a_dataset_of_hugging_face_are_found_by_name(trainctl) -> None:
    pytest.importorskip("datasets")
    draw = random.Random(0)
    table = [{"a": draw.random(), "b": draw.gauss(9, 5), "c": n % 2 == 0, "label": n % 3} for n in range(90)]
    write(table, "table.parquet")
    assert trainctl("dataset=hf", "dataset.path=table.parquet", *_SHORT).code == 0
    expected = predicted(trainctl, "table.parquet")
    write(table, "order.parquet", ["label", "c", "b", "a"])
    assert predicted(trainctl, "order.parquet") == expected
    write(table, "table.jsonl")
    assert predicted(trainctl, "table.jsonl") == expected


def test_memory_does_not_grow_with_the_file(trainctl) -> None:
    write(rows(60), "table.parquet")
    assert trainctl("dataset=parquet", "dataset.path=table.parquet", *_SHORT).code == 0
    peaks = []
    before = pyarrow.default_memory_pool()
    for times in (1, 40, 400):  # the first imports what is needed
        draw = random.Random(0)
        many = [{**row, "width": draw.random()} for row in rows(50) * times]
        parquet.write_table(pyarrow.Table.from_pylist(many), "large.parquet", use_dictionary=False)
        pool = pyarrow.proxy_memory_pool(before)
        pyarrow.set_memory_pool(pool)
        tracemalloc.start()
        try:
            words = ("--input", "large.parquet", "--output", "out.csv", "--batch-size", "50")
            assert trainctl("predict", "run", *words).code == 0
            peaks.append((tracemalloc.get_traced_memory()[1], pool.max_memory()))
        finally:
            tracemalloc.stop()
            pyarrow.set_memory_pool(before)
    for small, large in zip(peaks[1], peaks[2], strict=True):
        assert large < 1.5 * small + 300_000, peaks
