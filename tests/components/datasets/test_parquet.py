"""Tables in Parquet files."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from pyarrow import parquet as writer

from trainctl.components.datasets.csv import csv
from trainctl.components.datasets.parquet import parquet
from trainctl.data import Data
from trainctl.errors import ConfigError, MissingDataError
from trainctl.inference.readers.arrow import ArrowTable


def read(columns: dict[str, Any], **arguments: Any) -> Data:
    write(columns)
    return parquet("table.parquet", **{"test": 0, **arguments})


def write(columns: dict[str, Any], name: str = "table.parquet") -> None:
    writer.write_table(pyarrow.table(columns), name)


def problem(columns: dict[str, Any], **arguments: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        read(columns, **arguments)
    return "\n".join(f"{each.message}\n{each.remedy}" for each in raised.value.problems)


def test_each_type_becomes_numbers_or_categories() -> None:
    data = read(
        {
            "int": pyarrow.array([1, None, 3, 4], pyarrow.int16()),
            "float": pyarrow.array([0.5, float("nan"), None, 2.0], pyarrow.float32()),
            "decimal": pyarrow.array([Decimal("1.25"), None, Decimal("2.50"), Decimal("3.75")]),
            "flag": pyarrow.array([True, False, None, True]),
            "text": pyarrow.array(["u", "v", None, "NA"], pyarrow.large_string()),
            "category": pyarrow.array(["b", "a", None, "b"]).dictionary_encode(),
            "y": pyarrow.array(["no", "yes", "no", "yes"]),
        }
    )
    nan = float("nan")
    expected = [
        [1, 0.5, 1.25, 1, 0, 1],
        [nan, nan, nan, 0, 1, 0],
        [3, nan, 2.5, nan, nan, nan],
        [4, 2, 3.75, 1, nan, 1],
    ]
    torch.testing.assert_close(data.train.inputs, torch.tensor(expected), equal_nan=True)
    assert data.input_shape == (4 + 2 + 2,)
    assert data.classes == ("no", "yes")
    assert data.fit is not None
    outputs = data.fit(data.train)(data.train.inputs)
    assert outputs.isfinite().all()
    assert outputs[2, 4:].tolist() == [0, 0, 0, 0]


def test_the_same_table_as_text_and_as_parquet_gives_the_same_data() -> None:
    columns = {"n": [1.5, 2.5, None, 4.0], "k": ["u", "v", "u", None], "y": [0.5, 1.5, 2.25, 3.0]}
    Path("table.csv").write_text("n,k,y\n1.5,u,0.5\n2.5,v,1.5\n,u,2.25\n4.0,,3.0\n")
    one, other = read(columns, test=1), csv("table.csv", test=1)
    torch.testing.assert_close(one.train.inputs, other.train.inputs, equal_nan=True)
    torch.testing.assert_close(one.test.inputs, other.test.inputs, equal_nan=True)
    assert torch.equal(one.train.targets, other.train.targets)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([[1], [2], [3]], "list"),
        ([{"a": 1}] * 3, "struct"),
        ([b"1", b"2", b"3"], "binary"),
    ],
)
def test_nested_columns_are_refused_with_the_word_that_drops_them(column: Any, kind: str) -> None:
    columns = {"when it was": column, "x": [1, 2, 3], "y": [0.5, 1.5, 1.0]}
    said = problem(columns)
    assert f"table.parquet: column 1 (when it was) holds {kind}" in said
    assert "'dataset.drop=[when it was]'" in said
    data = read(columns, drop=["when it was"])
    assert data.train.inputs.flatten().tolist() == [1, 2, 3]


def test_texts_that_are_dates_are_read_as_in_csv() -> None:
    cells = [f"{1 + row % 28}/{1 + row % 3}/2020" for row in range(40)]
    columns = {"day": cells, "iso": ["2020-02-03"] * 40, "y": [row + 0.5 for row in range(40)]}
    data = read(columns)
    lines = "".join(f"{cell},2020-02-03,{row}.5\n" for row, cell in enumerate(cells))
    Path("same.csv").write_text(f"day,iso,y\n{lines}")
    assert torch.equal(data.train.inputs, csv("same.csv", test=0).train.inputs)
    assert "dates or times (day first), in seconds in day" in data.note
    write({"day": ["3/2/2020"], "iso": ["2020-02-03"], "y": [0.5]}, "new.parquet")
    new = parquet("new.parquet", test=0, like=data.reading)
    assert new.train.inputs.tolist() == [[1580688000.0] * 2]
    source = ArrowTable(Path("new.parquet"), {}, data.reading, {})
    assert next(source.batches(9)).inputs.tolist() == [[1580688000.0] * 2]
    said = problem({"day": ["3/2/2020", "4/5/2020"] * 20, "y": [row + 0.5 for row in range(40)]})
    assert "column 1 (day): '3/2/2020' can be read with the day or with the month first" in said


def test_times_are_numbers() -> None:
    when = [datetime.datetime(1970, 1, day, microsecond=500_000) for day in (1, 2, 3)]
    days = [datetime.date(1970, 1, day) for day in (1, 2, 3)]
    data = read({"when": when, "day": days, "y": [0.5, 1.5, 1.0]})
    assert data.train.inputs.tolist() == [[0.5, 0.0], [86400.5, 86400.0], [172800.5, 172800.0]]
    assert "dates or times, in seconds in when, day" in data.note


def test_the_index_of_a_data_frame_is_left_out() -> None:
    columns = {"x": [1, 2], "y": [0.5, 1.0], "name": ["u", "v"], "__index_level_0__": [5, 3]}
    metadata = {b"pandas": b'{"index_columns": ["name"], "columns": []}'}
    writer.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), "table.parquet")
    data = parquet("table.parquet", test=0)
    assert data.train.inputs.tolist() == [[1.0], [2.0]]
    assert data.reading["targets"][0]["name"] == "y"
    assert "left out column 3 (name): the index of a data frame" in data.note


def test_whole_numbers_beyond_floats_are_classes_of_their_own() -> None:
    big = 2**53
    data = read({"x": list(range(8)), "y": [big, big + 1] * 4})
    assert data.classes == (str(big), str(big + 1))


def test_numbers_stored_as_text_are_named() -> None:
    columns = {"x": [f"{row}.5" for row in range(30)], "y": [row + 0.5 for row in range(30)]}
    assert "column 1 (x) has numbers that are stored as text" in problem(columns)
    assert read(columns, categories=["x"]).input_shape == (30,)


def test_bad_cells_name_their_row() -> None:
    columns = {"x": [1.0, float("inf"), 2.0, 3.0], "y": [0.5, 1.5, None, 2.0]}
    said = problem(columns, bad_rows="error")
    assert "table.parquet, row 2, column 1 (x): 'inf' is not finite in float32" in said
    assert "table.parquet, row 3, column 2 (y): the target is missing" in said
    data = read(columns, bad_rows="skip")
    assert data.train.inputs.flatten().tolist() == [1.0, 3.0]
    assert "left out 1 row that cannot be read and 1 row without a target" in data.note


def test_a_second_file_to_test_on() -> None:
    write({"y": [1.5], "x": [7]}, "test.parquet")
    data = read({"id": ["u", "v"], "x": [1, 2], "y": [0.5, 1.0]}, drop=["id"], test_path="test.parquet")
    assert data.test is not None
    assert data.test.inputs.tolist() == [[7.0]]
    write({"y": [1.5], "x": [datetime.date(2020, 1, 1)]}, "test.parquet")
    said = problem({"x": [1, 2], "y": [0.5, 1.0]}, test_path="test.parquet")
    assert "test.parquet, column 2 (x): times, where table.parquet has numbers" in said
    write({"x": [1], "y": [1.5]}, "test.parquet")
    said = problem({"x": ["u", "v"], "y": [0.5, 1.0]}, test_path="test.parquet")
    assert "test.parquet, column 1 (x): numbers, where table.parquet has text" in said


def test_what_is_no_parquet_file() -> None:
    Path("table.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"table\.parquet cannot be read as Parquet"):
        parquet("table.parquet")
    assert "0 rows" in problem({"x": pyarrow.array([], pyarrow.int64())})
    with pytest.raises(MissingDataError, match=r"tables\.parquet not found") as raised:
        parquet("tables.parquet")
    assert "dataset.path=table.parquet" in raised.value.problems[0].remedy


def test_groups_of_rows_with_every_kind_of_name() -> None:
    values = [[float(row + 100 * column) for row in range(10)] for column in range(4)]
    texts = [f"{'ab'[row % 2]}" for row in range(10)]
    for names in (["a.b", "a", "a.c", "y", "t"], ["n", "n", "m", "y", "t"], ["a", "b", "c", "y", "t"]):
        table = pyarrow.table([pyarrow.array(each) for each in (*values, texts)], names=names)
        writer.write_table(table, "table.parquet", row_group_size=3)
        data = parquet("table.parquet", target=4, test=0)
        codes = torch.tensor([0.0, 1.0]).repeat(5)
        expected = torch.stack([*(torch.tensor(column) for column in values[:3]), codes], dim=1)
        assert torch.equal(data.train.inputs, expected)
        assert torch.equal(data.train.targets.flatten(), torch.tensor(values[3], dtype=torch.float64))
