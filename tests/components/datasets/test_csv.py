"""Tables in text files: how they are read, what they become, and what is said about those that cannot be."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainctl.components.datasets.csv import csv
from trainctl.data.types import Data, Split, hold_out
from trainctl.errors import ConfigError, MissingDataError
from trainctl.inference.readers.tables import TableFile

NAN = float("nan")


def write(text: str | bytes, name: str = "table.csv") -> str:
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


def read(text: str | bytes, **arguments: Any) -> Data:
    """The dataset a text makes; all rows are for training unless the test says otherwise."""
    return csv(write(text), **{"test": 0, **arguments})


def transformed(data: Data, split: Split | None = None) -> Tensor:
    assert data.fit is not None
    outputs: Tensor = data.fit(data.train)((split or data.train).inputs)
    assert tuple(outputs.shape[1:]) == data.input_shape
    assert outputs.dtype == torch.float32
    return outputs


def problem(text: str | bytes, **arguments: Any) -> str:
    """Message and remedy of the error that reading a text ends in."""
    with pytest.raises(ConfigError) as raised:
        read(text, **arguments)
    assert raised.value.exit_code == 2
    return "\n".join(f"{each.message}\n{each.remedy}" for each in raised.value.problems)


PLAIN = "a,b,y\n1,2,0.5\n3,4,1.5\n5,6,2.5\n"


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_delimiter_line_end_and_encoding_are_found(separator: str, end: str, encoding: str) -> None:
    text = "größe,b,y\n1,2,0.5\n3,4,1.5\n".replace(",", separator).replace("\n", end)
    data = read(text.encode(encoding), target="y", drop=["größe"])
    assert data.train.inputs.tolist() == [[2.0], [4.0]]
    assert data.train.targets.tolist() == [[0.5], [1.5]]
    assert ("encoding" in data.note) == (not encoding.startswith("utf-8"))


def test_a_gzipped_file_is_unpacked_whatever_its_name() -> None:
    assert read(gzip.compress(PLAIN.encode())).train.inputs.shape == (3, 2)


def test_no_line_end_at_the_end_blank_lines_and_spaces() -> None:
    data = read('\n "a", b ,y\n\n1 , 2,0.5\n   \n,,\n3,4, 1.5')
    assert data.train.inputs.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_quoted_cells_hold_delimiters_quotes_and_lines() -> None:
    data = read('n,"a, ""b""",y\n1,"x,\ny",0\n2,"x,\ny",1\n3,z,bad,1\n', bad_rows="skip", target="y")
    assert data.input_shape == (2,)
    assert "left out 1 row" in data.note
    assert "line 6, column 4: '1'" in problem('n,m,y\n1,"x,\ny",0\n2,"x,\ny",1\n3,z,bad,1\n')


def test_columns_lined_up_by_many_spaces() -> None:
    data = read("  a    b   y\n  1.0  2   0.5  \n 10.0  4   1.5\n")
    assert data.train.inputs.tolist() == [[1.0, 2.0], [10.0, 4.0]]


def test_decimal_commas_between_semicolons() -> None:
    data = read("1,5;2;0,5\n2,5;3;1,5\n3,5;4;2,25\n")
    assert data.train.inputs.tolist() == [[1.5, 2.0], [2.5, 3.0], [3.5, 4.0]]
    assert data.train.targets.flatten().tolist() == [0.5, 1.5, 2.25]
    assert "semicolon-separated; no header; 2 number columns; decimal commas in 1" in data.note


@pytest.mark.parametrize("delimiter", ["#", "tab", "\\t", "\t"])
def test_a_delimiter_that_is_given(delimiter: str) -> None:
    character = "#" if delimiter == "#" else "\t"
    assert read(PLAIN.replace(",", character), delimiter=delimiter).train.inputs.shape == (3, 2)


@pytest.mark.parametrize(
    ("text", "header"),
    [
        (PLAIN, True),
        ("1,2,0.5\n3,4,1.5\n", False),
        ("x,1,0.5\nx,2,1.5\n", False),
        ("kind,size,y\nx,1,0.5\nz,2,1.5\n", True),
        ("kind,y\nred,no\nblue,yes\nred,yes\n", True),
        ("red,no\nblue,yes\nred,no\n", False),
        ("flag,y\ntrue,0.5\nfalse,1.5\n", True),
        ("true,0.5\nfalse,1.5\n", False),
        ("3,4,name\n1,2,0\n3,4,1\n", False),
        ("3,of,name\n1,2,0\n3,4,1\n", True),
        ("?,2,0.5\n3,4,1.5\n", False),
    ],
)
def test_a_header_is_recognized(text: str, header: bool) -> None:
    data = read(text, target=-1, bad_rows="skip")
    assert len(data.train) == text.count("\n") - header
    assert ("no header" in data.note) != header


def test_a_header_that_is_said_to_be_there_or_not() -> None:
    assert len(read("1,2,0.5\n3,4,1.5\n5,6,2\n", header=True).train) == 2
    assert "line 1, column 1: 'a' is not a number" in problem(PLAIN * 4 + "9,9,9\n" * 90, header=False)


def test_a_line_above_the_table() -> None:
    text = "3,titles\n1,2,0.5\n3,4,1.5\n"
    said = problem(text)
    assert "table.csv, line 1: 2 cells from '3' to 'titles', where most lines have 3" in said
    assert "dataset.skip_lines=1" in said
    assert read(text, skip_lines=1).train.inputs.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert "line 3, column 1" in problem("# a, b, and c\nx,y\n?,1\n2,2\n", skip_lines=1, missing="error")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"","a","y"\n"1",7,0.5\n"2",8,1.5\n"3",7,1.0\n', "left out column 1: no name"),
        (",a,y\n5,7,0.5\n2,8,1.5\n9,7,1.0\n", "left out column 1: no name"),
        ("Unnamed: 0,a,y\n5,7,0.5\n2,8,1.5\n9,7,1.0\n", "left out column 1 (Unnamed: 0): the index"),
        ("a,y,Unnamed: 0.1\n7,0.5,4\n8,1.5,3\n7,1.0,2\n", "left out column 3 (Unnamed: 0.1): the index"),
        ("PassengerId,a,y\n1,7,0.5\n2,8,1.5\n3,7,1.0\n", "left out column 1 (PassengerId): row numbers"),
        ('"a","y"\n"r1",7,0.5\n"r2",8,1.5\n"r3",7,1.0\n', "left out column 1: no name"),
    ],
)
def test_columns_that_number_the_rows_are_left_out_and_can_be_kept(text: str, said: str) -> None:
    data = read(text)
    assert data.train.inputs.flatten().tolist() == [7.0, 8.0, 7.0]
    assert data.train.targets.flatten().tolist() == [0.5, 1.5, 1.0]
    assert said in data.note
    number = int(said.split("column ")[1].split(" ")[0].rstrip(":"))
    assert len(read(text, keep=[number], target="y").reading["columns"]) == 2


def test_numbers_of_columns_are_those_of_messages() -> None:
    text = ",a,b,y\n1,7,u,0.5\n2,8,v,1.5\n3,9,u,1.0\n"
    assert read(text, drop=[2]).reading["columns"][0]["name"] == "b"
    assert read(text, target=2).reading["targets"][0]["name"] == "a"
    years = "2,1,y\n5,6,no\n7,8,yes\n9,8,no\n5,8,yes\n"
    assert read(years, header=True, drop=[2]).reading["columns"][0]["name"] == "2"
    assert read(years, header=True, drop=["2"]).reading["columns"][0]["name"] == "1"


def test_names_in_single_quotes_are_the_words_inside() -> None:
    rows = "".join(f"{row} {row * 7 % 5}.5 {row % 2}\n" for row in range(1, 20))
    data = read("'OBS' 'GPA' 'GRADE'\n" + rows)
    assert [each["name"] for each in data.reading["columns"]] == ["GPA"]
    assert data.reading["targets"][0]["name"] == "GRADE"


@pytest.mark.parametrize("names", ["0,1,2,label", "2019,2020,2021,label", "1,2,3,label"])
@pytest.mark.parametrize("classes", [("cat", "dog"), ("0", "1")])
def test_a_header_of_numbers(names: str, classes: tuple[str, ...]) -> None:
    data = read(names + "\n" + "".join(f"{row}.5,-0.{row},0.1,{classes[row % 2]}\n" for row in range(9)))
    assert data.classes == classes
    assert len(data.train) == 9
    assert "line 1 is taken for the header" in data.note


def test_a_number_is_the_name_above_texts_too() -> None:
    test_a_header_of_numbers("2019,2020,2021,2022", ("cat", "dog"))


def test_a_header_that_may_be_one_is_pointed_at() -> None:
    text = "10,20,50,label\n" + "".join(f"{row}.5,-0.{row},0.1,{'ab'[row % 2]}\n" for row in range(9))
    assert "if line 1 has names: dataset.header=true" in read(text).note
    assert "dataset.header=true" in problem(text, target="label")


def test_columns_of_one_name_are_told_apart() -> None:
    data = read("a,a,y\n1,2,0.5\n3,4,1.5\n", drop=["a.2"])
    assert data.train.inputs.flatten().tolist() == [1.0, 3.0]
    named = read("a,a,a.2,y\n1,2,3,0.5\n3,4,5,1.5\n").reading["columns"]
    assert len({each["name"] for each in named}) == 3


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("cells", "values", "said"),
    [
        (["1,200", "850", "2,000"], [1200, 850, 2000], "thousands separators"),
        (["1,200.5", "3,000", "1,850"], [1200.5, 3000, 1850], "thousands separators"),
        (["1.200,5", "3.000", "0,25"], [1200.5, 3000, 0.25], "decimal commas"),
        (["1,5", "2", "3"], [1.5, 2, 3], "decimal commas"),
        (["1 200", "2\u00a0000", "1\u202f234\u202f567"], [1200, 2000, 1234567], ""),
        (["1'200", "2'000", "5"], [1200, 2000, 5], ""),
        (["1,20,000", "12,34,567", "5"], [120000, 1234567, 5], "thousands separators"),
        (["\u22121.5", "2.5", "+3"], [-1.5, 2.5, 3], ""),
        (["12%", "7.5 %", "0%"], [12, 7.5, 0], "numbers with %"),
        (["$1,200", "-$850", "$ 3"], [1200, -850, 3], "numbers with $"),
        (["3 €", "4,5 €", "1.000 €"], [3, 4.5, 1000], "numbers with €"),
        (["3 km", "4.5 km", "1,000 km"], [3, 4.5, 1000], "numbers with km"),
        (["1 day", "2 days", "-7days"], [1, 2, -7], "numbers with day"),
        (["EUR 3", "EUR 1,200", "-EUR 5"], [3, 1200, -5], "numbers with EUR"),
        (["20.5°C", "-3 °C", "7°C"], [20.5, -3, 7], "numbers with °C"),
        (["12", "03", "11"], [12, 3, 11], "leading zeros, taken as numbers, in a"),
        (["1970-01-02", "1970-01-01T00:01", "1970-01-01 00:00:02.5"], [86400, 60, 2.5], "dates or times"),
        (["00:30", "1:00", "23:59:59"], [1800, 3600, 86399], "dates or times"),
        (["12:30 AM", "1:00 p.m.", "12:00:01PM"], [1800, 46800, 43201], "dates or times"),
        (
            ["2.1.1970", "01.01.1970 00:01", "3.01.1970"],
            [86400, 60, 172800],
            "dates or times, in seconds in a",
        ),
        (["2/1/1970", "1/01/1970 0:01", "13/1/1970"], [86400, 60, 1036800], "dates or times (day first)"),
        (["1/2/1970", "1/1/1970 12:01 AM", "1/13/1970"], [86400, 60, 1036800], "(month first), in seconds"),
        (["02-01-1970", "13-01-1970", "1970-1-3"], [86400, 1036800, 172800], "(day first)"),
        (["2-Jan-1970", "1 January 1970 00:01", "3rd Sept 1970"], [86400, 60, 21168000], "dates or times"),
        (["Jan 2, 1970", "January 1st, 1970, 00:01:00.5", "may 1 1970"], [86400, 60.5, 10368000], "dates"),
        (["1970/01/02", "1970-01-01T01:00:00+01:00", "1970-01-01 00:00Z"], [86400, 0, 0], "dates or times"),
    ],
)
def test_numbers_as_people_write_them(cells: list[str], values: list[float], said: str) -> None:
    rows = "".join(f"{cell}\t{row}.5\n" for row, cell in enumerate(cells))
    data = read(f"a\ty\n{rows}")
    assert data.train.inputs.flatten().tolist() == values
    assert said in data.note


@pytest.mark.parametrize(
    "cells", [["1,200", "2,300"], ["1.850", "750"], ["1,200", "1.850"], ["297.000", "241.000"]]
)
def test_numbers_with_two_readings_are_named(cells: list[str]) -> None:
    text = "a;y\n" + "".join(f"{cell};{row}\n" for row, cell in enumerate(cells))
    said = problem(text)
    assert f"column 1 (a): {cells[0]!r} can be read with a decimal or with a thousands separator" in said
    assert "dataset.decimal=" in said
    if "," not in cells[0]:
        whole = [float(cell.replace(".", "")) for cell in cells]
        assert read(text, decimal=",").train.inputs.flatten().tolist() == whole
    # Another column of the file tells.
    text = "a;b;y\n" + "".join(f"{cell};{row}.5;{row}\n" for row, cell in enumerate(cells[:1] * 3))
    expected = float(cells[0].replace(",", ""))
    assert read(text).train.inputs[:, 0].tolist() == [expected] * 3


@pytest.mark.parametrize("cell", ["#N/A", "<NA>", ".", "\\N", "-", "n.a.", "#DIV/0!"])
def test_marks_of_missing_numbers(cell: str) -> None:
    data = read(f"a,y\n1.5,0.5\n{cell},1.5\n2.5,2.5\n{cell},3.5\n")
    torch.testing.assert_close(
        data.train.inputs.flatten(), torch.tensor([1.5, NAN, 2.5, NAN]), equal_nan=True
    )
    assert any("column 1 (a): number" in line and "2 missing" in line for line in data.report)
    assert "2 missing in a (numbers become the mean)" in data.note


def test_numbers_with_many_other_texts_never_become_categories_without_a_word() -> None:
    text = "a,y\n" + "".join(f"{row}.25,{row}.5\n" for row in range(40)) + "unknown,1\n" * 10
    said = problem(text)
    assert "column 1 (a): 80% of the cells are numbers, 'unknown' (10) is not" in said
    assert "'dataset.missing_marks=[unknown]'" in said
    assert "'dataset.categories=[a]'" in said
    assert int(read(text, missing_marks=["unknown"]).train.inputs.isnan().sum()) == 10
    assert read(text, categories=["a"]).input_shape == (41,)
    few = read("k,y\n" + "".join(f"{('0', '1', '2', '3+')[row % 4]},{row}.5\n" for row in range(40)))
    assert few.input_shape == (4,)
    assert "numbers and texts, taken as categories, in k" in few.note


def test_numbers_of_several_units_are_named_and_seats_are_names() -> None:
    rows = [f"{row}.5 {('km', 'm', 'mi')[row % 3]},{row}.5\n" for row in range(90)]
    said = problem("a,y\n" + "".join(rows))
    assert "column 1 (a): 33% of the cells are numbers with km, '1.5 m' (1) is not" in said
    seats = "".join(f"{row % 30}{'ABCDEF'[row % 6]},{row},{row}.5\n" for row in range(300))
    assert "1 number column and 1 of text (30 categories)" in read(f"seat,a,y\n{seats}").note


def test_codes_of_one_length_with_leading_zeros_are_categories() -> None:
    codes = ("02139", "90210", "10001")
    text = "zip,y\n" + "".join(f"{codes[row % 3]},{row}.5\n" for row in range(30))
    data = read(text)
    assert data.reading["columns"][0]["categories"] == sorted(codes)
    assert "codes with leading zeros, taken as categories in zip" in data.note
    assert read(text, decimal=".").train.inputs[0].item() == 2139
    assert read(text.replace("02139", "2139")).reading["columns"][0]["kind"] == "number"


AMBIGUOUS = "day,y\n" + "".join(f"{1 + row % 9}/{1 + row % 3}/2020,{row}.5\n" for row in range(40))


def test_dates_in_an_order_that_no_cell_proves_are_refused_until_it_is_said() -> None:
    said = problem(AMBIGUOUS)
    assert "column 1 (day): '1/1/2020' can be read with the day or with the month first" in said
    assert "dataset.dates=day_first or dataset.dates=month_first" in said
    day_first = read(AMBIGUOUS, dates="day_first").train.inputs.flatten()
    month_first = read(AMBIGUOUS, dates="month_first").train.inputs.flatten()
    assert (day_first[0], day_first[1]) == (1577836800, 1577836800 + 32 * 86400)  # 1/1 and 2 February
    assert month_first[1] - month_first[0] == 32 * 86400
    assert not torch.equal(day_first, month_first)
    assert read(AMBIGUOUS, categories=["day"]).input_shape == (9,)


def test_another_column_proves_the_order_of_dates() -> None:
    lines = AMBIGUOUS.splitlines()
    text = "\n".join(
        [f"other,{lines[0]}", *(f"{13 + row % 9}/5/2020,{line}" for row, line in enumerate(lines[1:]))]
    )
    inputs = read(text).train.inputs
    assert torch.equal(inputs[:, 1], read(AMBIGUOUS, dates="day_first").train.inputs[:, 0])
    assert "'13/5/2020' is not a date or time; 39 more in this column" in problem(text, dates="month_first")


def test_dates_of_both_orders_are_no_dates() -> None:
    cells = ["13/01/2020", "01/13/2020"] * 20
    text = "day,y\n" + "".join(f"{cell},{row}.5\n" for row, cell in enumerate(cells))
    assert "1 of text (2 categories)" in read(text).note
    one = "day,y\n" + "".join(f"{13 + row % 9}/1/2020,{row}.5\n" for row in range(40)) + "1/13/2020,3\n"
    assert "line 42, column 1 (day): '1/13/2020' is not a date or time" in problem(one)


def test_a_year_of_two_digits_is_no_year() -> None:
    rows = "".join(f"{1 + row % 28}.{1 + row // 28}.24,{row},{row}.5\n" for row in range(60))
    said = "left out column 1 (day): 60 dates with a year of two digits, where four are needed in 60 rows"
    assert said in read(f"day,a,y\n{rows}").note


def test_dates_are_read_as_in_training() -> None:
    cells = [f"{1 + row % 28}/{1 + row % 3}/2020" for row in range(40)]
    run = read("day,y\n" + "".join(f"{cell},{row}.5\n" for row, cell in enumerate(cells)))
    again = read("day,y\n3/2/2020,0.5\n4.2.2020,1.5\n", like=run.reading)
    expected = [1580688000.0, 1580774400.0]  # 3 and 4 February
    assert again.train.inputs.flatten().tolist() == expected
    batch = next(
        TableFile(Path(write("day\n3/2/2020\n4.2.2020\n2/13/2020\n")), {}, run.reading, {}).batches(9)
    )
    assert batch.inputs.flatten().tolist() == expected
    assert "'2/13/2020' is not a date or time" in batch.errors[2]
    said = problem("day,y\n3/2/2020,0.5\n", like=run.reading, dates="month_first")
    assert "dataset.dates=month_first: the model was trained on day with day first" in said
    iso = read("day,y\n2020-02-03,0.5\n2020-02-04,1.5\n")
    assert "'3/2/2020' is not a date or time" in problem("day,y\n3/2/2020,0.5\n", like=iso.reading)


def test_ids_that_count_in_any_order_number_the_rows() -> None:
    for name, numbers in (
        ("RowNumber", range(1, 31)),
        ("PassengerId", range(892, 922)),
        ("id", range(30, 0, -1)),
    ):
        text = f"{name},a,y\n" + "".join(f"{each},{each % 7}.5,{each % 3}.5\n" for each in numbers)
        assert f"left out column 1 ({name}): row numbers" in read(text).note
    ages = "age,a,y\n" + "".join(f"{each},{each % 7}.5,{each % 3}.5\n" for each in range(20, 50))
    assert "2 number columns" in read(ages).note


def test_names_of_columns_may_look_like_numbers_with_a_unit() -> None:
    names = "100m,2B,1stFlr,y"
    data = read(f"{names}\n" + "".join(f"{row},{row}.5,{row * 2},{row}.5\n" for row in range(12)))
    assert [each["name"] for each in data.reading["columns"]] == names.split(",")[:3]


def test_na_can_be_a_class_and_a_category() -> None:
    rows = "".join(
        f"{row}.5,{('None', 'Brick')[row % 2]},{('EU', 'NA', 'SA')[row % 3]}\n" for row in range(12)
    )
    text = f"a,b,y\n{rows}"
    data = read(text)
    assert data.classes == ("EU", "SA")
    assert "4 rows without a target (NA; dataset.missing_marks=[] makes such texts classes)" in data.note
    data = read(text, missing_marks=[])
    assert (data.classes, data.input_shape, len(data.train)) == (("EU", "NA", "SA"), (3,), 12)
    assert read("a,y\n1,-\n2,+\n3,+\n4,-\n").classes == ("+", "-")


def test_a_mark_of_many_targets_is_said_in_a_line_of_its_own() -> None:
    rows = [f"{row}.5,{('EU', 'NA', 'SA')[row % 3]}\n" for row in range(60)]
    data = read("a,y\n" + "".join(rows))
    said = "20 rows have no target: NA counts as missing; if it is a class: dataset.missing_marks=[]"
    assert data.warnings == (said,)
    assert not read("a,y\n" + "".join(rows), missing_marks=[]).warnings
    assert not read("a,y\n" + "".join(rows), missing_marks=["NA"]).warnings
    assert not read("a,y\n" + "".join(rows[:12])).warnings  # a handful
    assert not read("a,y\n" + "".join(rows).replace("NA", "")).warnings
    numbers = "a,y\n" + "".join(f"{row}.5,{('0', 'NA', '1')[row % 3]}\n" for row in range(60))
    assert not read(numbers).warnings


def test_times_in_seconds_keep_their_differences() -> None:
    far, near = (
        read("t,y\n" + "".join(f"{start + 7 * row},{row}.5\n" for row in range(30)))
        for start in (1_700_000_000, 0)
    )
    torch.testing.assert_close(transformed(far), transformed(near))
    again = read("t,y\n1700000007,0.5\n", like=far.reading)
    assert again.train.inputs.tolist() == [[1_700_000_007.0]]
    lost = read("t,y\n" + "".join(f"{row},{row}.5\n" for row in range(50)) + "1e30,3\n")
    assert "column 1 (t): 51 different numbers become" in lost.note


def test_of_many_numbers_those_that_fall_together_are_named() -> None:
    rows = range(60_000)
    pairs = "".join(f"{row // 4 * 1000 + row % 4 / 100:.2f},{row * 3},{row % 7}.5\n" for row in rows)
    note = read(f"close,far,y\n{pairs}").note
    assert re.search(r"column 1 \(close\): 60000 different numbers become 1\d{4} when", note)
    assert "(far)" not in note


# ------------------------------------------------------------------ columns


@pytest.mark.parametrize("target", ["the size (cm)", 1, "1", -3])
def test_the_target_by_name_or_number(target: str | int) -> None:
    data = read("the size (cm),b,c\n0.5,2,3\n1.5,4,5\n", target=target)
    assert data.train.targets.flatten().tolist() == [0.5, 1.5]
    assert data.train.inputs.tolist() == [[2.0, 3.0], [4.0, 5.0]]


def test_the_target_is_the_last_column_that_is_not_dropped() -> None:
    data = read(PLAIN, drop=[3])
    assert data.train.targets.flatten().tolist() == [2.0, 4.0, 6.0]
    assert data.train.inputs.shape == (3, 1)


def test_categories_are_spread_and_a_missing_one_is_none() -> None:
    data = read("kind,n,y\nred,1,0.5\nblue,2,1.5\n?,3,2.5\nred,4,3.5\n")
    assert data.input_shape == (3,)
    torch.testing.assert_close(
        data.train.inputs, torch.tensor([[1.0, 1], [0, 2], [NAN, 3], [1, 4]]), equal_nan=True
    )
    assert transformed(data)[:, 1:].tolist() == [[0, 1], [1, 0], [0, 0], [0, 1]]


def test_true_and_false_are_numbers_as_inputs_and_classes_as_targets() -> None:
    assert read("f,y\ntrue,0.5\nFalse,1.5\n").train.inputs.tolist() == [[1.0], [0.0]]
    data = read("x,f\n1,True\n2,False\n3,True\n")
    assert data.classes == ("False", "True")
    assert data.train.targets.tolist() == [1, 0, 1]


@pytest.mark.parametrize("cell", ["", "NA", "N/A", "nan", "NaN", "null", "None", "?", '""', " NA "])
def test_a_missing_number_becomes_the_mean_of_training(cell: str) -> None:
    data = read(f"a,b,y\n1,2,0.5\n{cell},4,1.5\n3,8,2.5\n")
    assert torch.isnan(data.train.inputs[1, 0])
    outputs = transformed(data)
    assert outputs[:, 0].tolist() == [-1.0, 0.0, 1.0]
    assert outputs[:, 1].mean().item() == pytest.approx(0, abs=1e-6)
    assert outputs[:, 1].std(correction=0).item() == pytest.approx(1)


def test_rows_with_missing_cells_can_be_left_out_or_be_an_error() -> None:
    text = "a,b,y\n1,2,0.5\nNA,4,1.5\n3,NA,2.5\nNA,1,3.5\n5,5,5.5\n"
    data = read(text, missing="drop")
    assert data.train.inputs.tolist() == [[1.0, 2.0], [5.0, 5.0]]
    assert "left out 3 rows with missing cells" in data.note
    said = problem(text, missing="error")
    assert "line 3, column 1 (a): the cell is missing; 1 more in this column" in said
    assert "line 4, column 2 (b)" in said
    assert "dataset.missing=mean" in said


def test_a_constant_column_and_one_that_is_missing_in_training_divide_by_nothing() -> None:
    data = read("a,b,c,y\n0.1,1,NA,0.5\n0.1,2,NA,1.5\n0.1,3,NA,1.0\n0.1,NA,4,2.5\n")
    assert data.fit is not None
    transform = data.fit(data.train[:3])
    outputs = transform(data.train.inputs)
    assert outputs.isfinite().all()
    assert outputs[:, 0].abs().max() < 1e-6
    assert outputs[:, 2].tolist() == [0, 0, 0, 4]


def test_statistics_come_from_the_training_split_alone() -> None:
    rows = [f"{number},{'ab'[number % 2]},{number}.5" for number in range(40)] + ["1000,rare,0.5"]
    data = hold_out(read("n,k,y\n" + "\n".join(rows) + "\n"), 0.5, split_seed=0)
    assert data.val is not None
    rare_in_val = bool((data.val.inputs[:, 0] == 1000).any())
    assert rare_in_val, "the seed no longer puts the odd row into validation: choose another"
    assert data.fit is not None
    transform = data.fit(data.train)
    numbers = data.train.inputs[:, 0]
    assert transform(data.train.inputs)[:, 0].mean().abs() < 1e-6
    odd = transform(data.val.inputs[data.val.inputs[:, 0] == 1000])
    assert odd[0, 0].item() == pytest.approx(
        float((1000 - numbers.mean()) / numbers.std(correction=0)), rel=1e-5
    )
    assert odd[0, 1:].tolist() == [0, 0, 0], "a category that training has not seen"
    assert {name for name, _ in transform.named_buffers()} >= {"mean", "std"}
    assert transform(data.train.inputs)[:, 1:].sum(1).eq(1).all()


# ------------------------------------------------------------------ targets


@pytest.mark.parametrize(
    ("targets", "task", "classes"),
    [
        (["no", "yes", "no", "yes"], "classification", ("no", "yes")),
        (["10", "2", "10", "2"], "classification", ("2", "10")),
        (["1.0", "2.0", "1.0", "2"], "classification", ("1", "2")),
        (["0", "1", "2", "3"], "regression", ()),
        (["0.5", "1", "0.5", "1"], "regression", ()),
        (["-1", "1", "-1", "1"], "classification", ("-1", "1")),
    ],
)
def test_the_task_is_chosen_and_said(targets: list[str], task: str, classes: tuple[str, ...]) -> None:
    data = read("a,y\n" + "".join(f"{row}.5,{target}\n" for row, target in enumerate(targets)))
    assert (data.task, data.classes) == (task, classes)
    assert data.output_size == (len(classes) or 1)
    assert "because it" in data.note
    if task == "classification":
        assert data.train.targets.dtype == torch.int64
        assert [classes[number] for number in data.train.targets] == [
            target.removesuffix(".0") for target in targets
        ]
    else:
        assert data.train.targets.dtype == torch.float64
        assert data.train.targets.tolist() == [[float(target)] for target in targets]


def test_twenty_one_whole_numbers_are_values_and_twenty_are_classes() -> None:
    for distinct, task in ((20, "classification"), (21, "regression")):
        rows = "".join(f"{row},{row % distinct}\n" for row in range(100))
        assert read(f"a,y\n{rows}").task == task


def test_the_task_can_be_said() -> None:
    whole = "a,y\n" + "".join(f"{row},{row % 3}\n" for row in range(9))
    assert read(whole, task="regression").train.targets.shape == (9, 1)
    many = "a,y\n" + "".join(f"{row},{row * 2}\n" for row in range(30))
    assert read(many, task="classification").output_size == 30
    continuous = "a,y\n" + "".join(f"{row},{row}.5\n" for row in range(30))
    assert "30 different numbers in 30 rows" in problem(continuous, task="classification")
    versions = "a,y\n" + "".join(f"{row},{('1.1', '1.10', '1.9')[row % 3]}\n" for row in range(30))
    assert read(versions, task="classification").classes == ("1.1", "1.10", "1.9")
    assert "holds text" in problem("a,y\n1,u\n2,v\n", task="regression")
    mixed = "a,y\n" + "".join(f"{row},{row % 3}\n" for row in range(30)) + "5,other\n"
    assert "line 32, column 2 (y): 'other' is not a number" in problem(mixed)
    assert read(mixed, task="classification").classes == ("0", "1", "2", "other")


@pytest.mark.parametrize(
    "labels",
    [
        ["01", "1", "101"],
        ["007", "010", "101"],
        ["1e3", "1000", "2000"],
        ["77", "9007199254740992", "9007199254740993"],
    ],
)
def test_labels_are_texts(labels: list[str]) -> None:
    data = read("a,y\n" + "".join(f"{row}.5,{labels[row % 3]}\n" for row in range(12)))
    assert sorted(data.classes) == sorted(labels)
    again = read(f"a,y\n1.5,{labels[1]}\n", like=data.reading)
    assert [data.classes[number] for number in again.train.targets] == [labels[1]]


def test_the_task_classification_keeps_texts() -> None:
    text = "a,y\n" + "".join(f"{row}.5,{('1.0', '2')[row % 2]}\n" for row in range(8))
    assert read(text).classes == ("1", "2")
    assert read(text, task="classification").classes == ("1.0", "2")


# ------------------------------------------------------------------ test rows


@pytest.mark.parametrize(("test", "count"), [(0.2, 4), (5, 5), (1, 1)])
def test_rows_are_held_out_for_the_test_and_none_is_lost(test: float | int, count: int) -> None:
    text = "a,b,y\n" + "".join(f"{row},1,{row}.5\n" for row in range(20))
    data = read(text, test=test)
    assert data.test is not None
    assert len(data.test) == count
    rows = data.train.inputs[:, 0].tolist() + data.test.inputs[:, 0].tolist()
    assert sorted(rows) == list(range(20))
    assert torch.equal(data.test.inputs[:, 0] + 0.5, data.test.targets[:, 0])
    again = read(text, test=test)
    assert again.test is not None
    assert torch.equal(again.test.inputs, data.test.inputs)
    other = read(text, test=test, test_seed=1)
    assert other.test is not None
    assert not torch.equal(other.test.inputs, data.test.inputs)
    assert "dataset.test=20" in problem(text, test=20)


def test_a_second_file_to_test_on() -> None:
    write("y,extra,kind,n\nyes,1,red,1\nno,2,green,2\n", "test.csv")
    data = read(
        "id,kind,n,y\nx1,red,1,no\nx2,blue,2,yes\nx3,red,3,no\n", test=0.2, test_path="test.csv", drop=["id"]
    )
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (3, 2)
    assert data.test.targets.tolist() == [1, 0]
    assert transformed(data, data.test)[:, 1:].tolist() == [[0, 1], [0, 0]]
    assert "test from test.csv" in data.note


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind,y\nred,yes\nred,no\n", "test.csv has no column 2 (n)"),
        ("kind,n,y\nred,many,yes\nred,1,no\n", "test.csv, line 2, column 2 (n): 'many' is not a number"),
        (
            "kind,n,y\nred,1,maybe\nred,1,no\n",
            "test.csv, line 2, column 3 (y): 'maybe' is not a class of the training data",
        ),
    ],
)
def test_a_second_file_that_does_not_fit(text: str, said: str) -> None:
    write(text, "test.csv")
    assert said in problem("kind,n,y\nred,1,no\nblue,2,yes\nred,3,no\n", test_path="test.csv")


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("", {}, "table.csv is empty"),
        (" \n\n", {}, "table.csv is empty"),
        ("a,b,y\n", {}, "a header without rows"),
        ("a,b,y\n1,2,3\n4,5\n", {}, "line 3, column 3: there is no cell after '5'"),
        ("a,b,y\n1,2,3\n4,5,6,7\n1,2,3\n", {}, "line 3, column 4: '7' is one cell too many"),
        (PLAIN, {"target": "Y2"}, "dataset.target=Y2: table.csv has no such column"),
        (PLAIN, {"target": 4}, "table.csv has the columns 1 to 3"),
        (PLAIN, {"target": 0}, "table.csv has the columns 1 to 3"),
        (PLAIN, {"drop": ["a", "y"], "target": "y"}, "both name column 3 (y)"),
        (PLAIN, {"drop": ["a", "b"]}, "no input column beside the target"),
        ("a,y\n1,k\n2,k\n", {}, "every row has the target 'k'"),
        ("a,y\n1,3\n2,3\n", {}, "every row has the target 3"),
        ("a,y\n1,0.5\n2,NA\n3,2\n", {"bad_rows": "error"}, "line 3, column 2 (y): the target is missing"),
        ("a,y\n1,0.5\n2,inf\n3,2\n", {}, "line 3, column 2 (y): 'inf' is not finite"),
        ("a,y\n1,0.5\n1e39,1\n3,2\n", {}, "line 3, column 1 (a): '1e39' is too large for float32"),
        ("a,y\n1,0.5\n1e999,1\n3,2\n", {}, "line 3, column 1 (a): '1e999' is not finite"),
        ("a,b,y\n1,,0.5\n2,,1\n", {"drop": ["a"]}, "column 2 (b): no values"),
        ('a,y\n1,"u\n2,v\n', {}, "line 2: the row cannot be read"),
        ('a,y\n1,"u"v\n2,v\n', {}, "line 2: the row cannot be read"),
        ("only\n1\n2\n", {}, "table.csv has no columns"),
        (PLAIN, {"delimiter": "::"}, "must be one character"),
        (PLAIN, {"encoding": "utf-9"}, "dataset.encoding=utf-9"),
        (PLAIN, {"encoding": "hex"}, "dataset.encoding=hex"),
        ("a,y\nü,1\n".encode("latin-1"), {"encoding": "utf-8"}, "line 2: byte 0xfc is not utf-8"),
        (b"a,y\n1\x00,2\n", {}, "not text"),
        (bytes(range(256)), {}, "not text"),
        (b"PK\x03\x04rest", {}, "a zip file or spreadsheet"),
        (b"PAR1rest", {}, "dataset=parquet"),
        # Without the time in it, which would name this case otherwise in each process that collects it.
        (gzip.compress(PLAIN.encode(), mtime=0)[:-9], {}, "a damaged gzip file"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text: str | bytes, arguments: Any, said: str) -> None:
    assert said in problem(text, **arguments)


NUMBERS = "a,y\n" + "".join(f"{row},{row}.5\n" for row in range(30))


def test_a_text_among_numbers() -> None:
    said = problem(f"{NUMBERS}12 kg,1.5\n1_000,1.5\n")
    assert "table.csv, line 32, column 1 (a): '12 kg' is not a number; 1 more in this column" in said
    assert "dataset.bad_rows=skip" in said


def test_rows_that_cannot_be_read_are_left_out_and_counted() -> None:
    data = read(f"{NUMBERS}12 kg,1.5\n1,2,3\n1,NA\n1\n", bad_rows="skip")
    assert len(data.train) == 30
    assert "left out 3 rows that cannot be read and 1 row without a target" in data.note


def test_texts_that_name_the_rows_are_left_out_and_can_be_kept() -> None:
    rows = "".join(f"r{row},{row},n {row} (x),{row}.5\n" for row in range(30))
    text = f"code,a,the name,y\n{rows}"
    data = read(text)
    assert data.input_shape == (1,)
    assert "left out column 1 (code): 30 different texts in 30 rows" in data.note
    assert "left out column 3 (the name)" in data.note
    assert read(text, keep=["code"]).input_shape == (31,)
    assert "no input column is left (left out: column 1 (code)" in problem(text, drop=["a"])


def test_rows_without_a_target_are_left_out_and_counted() -> None:
    data = read("a,y\n1,0.5\n2,NA\n3,2\n4,\n")
    assert data.train.inputs.flatten().tolist() == [1.0, 3.0]
    assert "left out 2 rows without a target" in data.note


def test_a_wrong_name_gets_the_nearest() -> None:
    said = problem("sepal length (cm),width,y\n1,2,0.5\n3,4,1.5\n", target="sepal lenght (cm)")
    assert 'did you mean "sepal length (cm)"?' in said
    assert 'there are: "sepal length (cm)", width, y' in said


def test_a_file_that_is_not_there() -> None:
    write(PLAIN, "penguins.csv")
    with pytest.raises(MissingDataError) as raised:
        csv("pengiuns.csv")
    (found,) = raised.value.problems
    assert f"pengiuns.csv not found in {Path.cwd()}" in found.message
    assert "did you mean dataset.path=penguins.csv?" in found.remedy
    assert raised.value.stand_in == {"task": "classification", "shape": [4], "outputs": 3}
    with pytest.raises(MissingDataError, match="there is no folder"):
        csv("nowhere/x.csv", task="regression")
    Path("folder").mkdir()
    with pytest.raises(ConfigError, match="folder is not a file"):
        csv("folder")


# ------------------------------------------------------------------ end to end, files nobody prepared


def _shipped(name: str) -> Path:
    datasets = pytest.importorskip("sklearn", reason="scikit-learn is not installed").__path__[0]
    return Path(datasets) / "datasets" / "data" / name


def penguins() -> str:
    """A table like Gorman's penguins: two columns of text, missing cells in three columns."""
    generator = torch.Generator().manual_seed(0)
    kinds = [
        ("Adelie", "Torgersen", 38.8, 3700),
        ("Chinstrap", "Dream", 48.8, 3733),
        ("Gentoo", "Biscoe", 47.5, 5076),
    ]
    rows = ["species,island,bill length (mm),body_mass_g,sex"]
    for row in range(300):
        species, island, bill, mass = kinds[row % 3]
        noise = torch.randn(2, generator=generator).tolist()
        bill_cell = "NA" if row % 50 == 7 else f"{bill + 2.5 * noise[0]:.1f}"
        sex = "NA" if row % 40 == 9 else ("male", "female")[noise[1] < 0]
        rows.append(
            f"{species},{island if row % 5 else 'Dream'},{bill_cell},{mass + 300 * noise[1]:.0f},{sex}"
        )
    return "\n".join(rows) + "\n"


CLASSIFY = ("epochs=30", "batch_size=16")
FIT_LINE = ("loss=mse", "model=linear", "optim=sgd", "lr=0.01", "batch_size=16", "epochs=60")


@pytest.mark.parametrize(
    ("file", "words", "key", "least"),
    [
        ("iris.csv", CLASSIFY, "test/accuracy", 0.9),
        ("wine_data.csv", ("dataset.skip_lines=1", *CLASSIFY), "test/accuracy", 0.9),
        ("breast_cancer.csv", ("dataset.skip_lines=1", *CLASSIFY), "test/accuracy", 0.9),
        ("digits.csv.gz", (*CLASSIFY[1:], "epochs=5"), "test/accuracy", 0.9),
        ("diabetes_data_raw.csv.gz", FIT_LINE, "test/r2", 0.2),
        ("linnerud_exercise.csv", (*FIT_LINE, "batch_size=4", "dataset.test=0"), None, None),
        ("penguins", ("dataset.target=species", *CLASSIFY), "test/accuracy", 0.9),
        ("penguins", ("dataset.target=bill length (mm)", "dataset.bad_rows=skip", *FIT_LINE), "test/r2", 0.4),
    ],
)
@pytest.mark.slow
def test_a_table_nobody_prepared_trains(
    file: str, words: tuple[str, ...], key: str | None, least: float | None, trainctl
) -> None:
    path = write(penguins(), "my penguins=(1).csv") if file == "penguins" else str(_shipped(file))
    outcome = trainctl("dataset=csv", f"dataset.path={path}", *words, "threads=1", "display.mode=plain")
    assert outcome.code == 0, outcome.err
    record = json.loads(Path("outputs/latest/run.json").read_text())
    if key is None:
        assert record["test"] is None
    else:
        assert record["test"][key] > least


@pytest.mark.parametrize("word", ["dataset.delimiter=;", "dataset.delimiter=semicolon"])
def test_words_that_hydra_would_not_take_unquoted(word: str, trainctl) -> None:
    write("a;größe (cm)\n1;0.5\n2;1.5\n3;1.0\n4;2.0\n")
    outcome = trainctl(
        *("dataset=csv", "dataset.path=table.csv", "dataset.target=größe (cm)", word, "dataset.test=0"),
        *("dataset.val=0", "loss=mse", "model=linear", "batch_size=2", "epochs=1", "threads=1"),
    )
    assert outcome.code == 0, outcome.err
