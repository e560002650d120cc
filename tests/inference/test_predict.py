"""Predicting: files in, predictions out, as in training; what cannot be read is named."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.ipc
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from tests.helpers.runs import everything
from tests.helpers.trained import (
    COLOURS,
    QUICK,
    TABLE,
    outputs_by_hand,
    reference,
    train_on_tokens,
    train_two,
    write_table,
)
from trainctl import load
from trainctl.components.datasets.digits import digits
from trainctl.inference.readers.base import Batch, convert, evenly


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    return train_two(folder, "epochs=3", "model.hidden=[16]", "lr=3e-3")


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path, dirs_exist_ok=True))


def predicted(trainctl, run: str, source: str, *words: str, output: str = "out.csv") -> list[dict[str, Any]]:
    outcome = trainctl("predict", run, "--input", source, "--output", output, *words)
    assert outcome.code == 0, outcome.err
    return rows_of(output)


def rows_of(output: str) -> list[dict[str, Any]]:
    with Path(output).open(newline="") as file:
        return list(csv.DictReader(file)) if output.endswith(".csv") else list(map(json.loads, file))


def probabilities(rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    return [[float(value) for key, value in row.items() if key.startswith("probability_")] for row in rows]


def close(found: Any, expected: Any) -> None:
    numpy.testing.assert_allclose(numpy.array(found), torch.as_tensor(expected).numpy(), atol=1e-6)


# ------------------------------------------------------------------ tables


@pytest.mark.parametrize("batch", [(), ("--batch-size", "1"), ("--batch-size=7",)], ids=str)
@pytest.mark.parametrize("output", ["out.csv", "out.jsonl"])
def test_rows_of_a_table(trainctl, folder: Path, output: str, batch: tuple[str, ...]) -> None:
    rows = write_table(folder / "new.csv", 40, seed=5, shift=1.0)
    found = predicted(trainctl, "table", "new.csv", *batch, output=output)
    expected = outputs_by_hand(rows).softmax(1).tolist()
    assert [int(row["row"]) for row in found] == list(range(1, 41))
    assert [row["prediction"] for row in found] == [("no", "yes")[one > zero] for zero, one in expected]
    if output == "out.csv":
        columns = ["row", "prediction", "probability_no", "probability_yes", "note", "error"]
        assert list(found[0]) == columns
        assert {row["error"] + row["note"] for row in found} == {""}
        close(probabilities(found), expected)
    else:
        assert list(found[0]) == ["row", "prediction", "probabilities"]
        close([list(row["probabilities"].values()) for row in found], expected)
    assert [path.name for path in folder.glob(".out*")] == []


def test_the_loaded_pipeline_takes_raw_samples(trainctl, folder: Path) -> None:
    rows = write_table(folder / "new.csv", 40, seed=5, shift=1.0)
    found = probabilities(predicted(trainctl, "table", "new.csv"))
    raw = torch.tensor([[float(row[1]), float(row[2]), sorted(COLOURS).index(row[3])] for row in rows])
    close(found, load("table", preprocess=True)(raw).detach())
    pixels = digits().test.inputs
    close(reference("images", pixels).tolist(), load("images", preprocess=True)(pixels).detach())


def test_columns_are_found_by_their_names_in_any_order_and_the_target_is_not_needed(
    trainctl, folder: Path
) -> None:
    rows = write_table(folder / "new.csv", 20, seed=6)
    whole = predicted(trainctl, "table", "new.csv")
    for separator, packed in ((",", False), (";", False), ("\t", True)):
        lines = [["colour", "extra", "height", "width"], *([row[3], "x", row[2], row[1]] for row in rows)]
        text = "".join(separator.join(line) + "\n" for line in lines)
        name = "other.csv.gz" if packed else "other.csv"
        Path(name).write_bytes(gzip.compress(text.encode()) if packed else text.encode("utf-16"))
        outcome = trainctl("predict", "table", "--input", name, "--output", "second.csv")
        assert outcome.code == 0, outcome.err
        assert "ignored columns: extra" in outcome.out
        assert rows_of("second.csv") == whole


def test_without_names_columns_are_found_by_their_places(trainctl, folder: Path) -> None:
    rows = write_table(folder / "new.csv", 20, seed=6)
    whole = predicted(trainctl, "table", "new.csv")
    Path("bare.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    assert predicted(trainctl, "table", "bare.csv") == whole
    Path("bare.csv").write_text("".join(",".join(row[1:4]) + "\n" for row in rows))
    assert predicted(trainctl, "table", "bare.csv") == whole
    Path("bare.csv").write_text("".join(",".join(row[1:3]) + "\n" for row in rows))
    outcome = trainctl("predict", "table", "--input", "bare.csv", "--output", "out.csv")
    assert outcome.code == 2
    assert "has 2 columns without names, the run was trained on 3 of 5" in outcome.err


BAD = (
    "width,height,colour\n1,2,red\n1,many,red\n1,2\n\n1,inf,red\n1,2,red,4\n,,\n ,55,violet\n"
    '1,2,"red"x\n1,2,green\n'
)


def test_bad_rows_are_named_and_marked_and_the_others_predicted(trainctl, folder: Path) -> None:
    Path("bad.csv").write_text(BAD)
    outcome = trainctl("predict", "table", "--input", "bad.csv", "--output", "out.csv", "--batch-size", "3")
    assert outcome.code == 0, outcome.err
    found = rows_of("out.csv")
    errors = {int(row["row"]): row["error"] for row in found if row["error"]}
    assert errors == {
        2: "line 3, column 2 (height): 'many' is not a number",
        3: "line 4: 2 cells instead of 3",
        4: "line 6, column 2 (height): 'inf' is not finite",
        5: "line 7: 4 cells instead of 3",
        7: "line 10: the row cannot be read: ',' expected after '\"'",
    }
    for number in errors:
        assert set(list(found[number - 1].values())[1:-1]) == {""}
        assert f"no prediction: row {number}: {errors[number]}" in outcome.out
    mean = json.loads((next(Path("table/checkpoints").iterdir()) / "state.json").read_text())["data"]
    width = mean["transform"]["tensors"]["mean"]["values"][0]
    # A missing number is the mean of training, and a colour that it did not have is none.
    expected = outputs_by_hand([[0, 1, 2, "red"], [0, width, 55, "violet"], [0, 1, 2, "green"]]).softmax(1)
    close(probabilities([found[0], found[5], found[7]]), expected)
    assert "column 3 (colour): 1 cell with a category that training did not have" in outcome.out
    assert "8 rows in " in outcome.out
    assert "out.csv, 5 without a prediction: see its column error" in outcome.out


@pytest.mark.parametrize("explicit", [False, True], ids=["found", "given"])
@pytest.mark.parametrize("trained_on", [",", ";"])
def test_other_separators_than_in_training_are_read(trained_on: str, explicit: bool, trainctl) -> None:
    rows = write_table(Path("table.csv"), 120, seed=1)
    separated = "\n".join(Path("table.csv").read_text().splitlines()).replace(",", trained_on)
    Path("table.csv").write_text(separated)
    words = [*TABLE, *QUICK, "epochs=1", *([f"dataset.delimiter='{trained_on}'"] if explicit else [])]
    assert trainctl(*words, "hydra.run.dir=run").code == 0
    expected = None
    for delimiter, decimal in ((",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ",")):
        lines = [["height", "colour", "width"]]
        lines += [[row[2].replace(".", decimal), row[3], row[1].replace(".", decimal)] for row in rows[:9]]
        Path("new.csv").write_text("\n".join(delimiter.join(line) for line in lines))
        found = predicted(trainctl, "run", "new.csv")
        assert found == (expected or found), (delimiter, decimal)
        expected = found
    outcome = trainctl("predict", "run", "--input", "new.csv", "--output", "out.csv")
    assert "numbers have a decimal comma, not as in training" in outcome.out


def test_numbers_with_two_readings_keep_that_of_training(trainctl, folder: Path) -> None:
    Path("plain.csv").write_text("width;height;colour\n1;1234;red\n2;5678;red\n")
    Path("grouped.csv").write_text("width;height;colour\n1;1,234;red\n2;5,678;red\n")
    assert predicted(trainctl, "table", "grouped.csv") == predicted(trainctl, "table", "plain.csv")


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow"])
def test_no_rows_are_no_predictions(kind: str, trainctl, folder: Path) -> None:
    schema = pyarrow.schema([("width", pyarrow.float64()), ("height", pyarrow.int64())])
    schema = schema.append(pyarrow.field("colour", pyarrow.dictionary(pyarrow.int8(), pyarrow.string())))
    if kind == "csv":
        Path("new.csv").write_text("width,height,colour\n")
    elif kind == "parquet":
        parquet.write_table(schema.empty_table(), "new.parquet")
    else:
        with pyarrow.ipc.new_file("new.arrow", schema):
            pass
    outcome = trainctl("predict", "table", "--input", f"new.{kind}", "--output", "out.csv")
    assert outcome.code == 0, outcome.err
    assert f"new.{kind} has no rows: there is nothing to predict" in outcome.out
    assert "0 rows in" in outcome.out
    assert rows_of("out.csv") == []
    assert Path("out.csv").read_text() == "row,prediction,probability_no,probability_yes,note,error\n"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("output", ["out.csv", "out.jsonl"])
def test_a_category_that_training_did_not_have_is_noted(
    kind: str, output: str, trainctl, folder: Path
) -> None:
    table = {"width": [1.0, 2.0, 3.0], "height": [50, 51, 52], "colour": ["red", "violet", None]}
    if kind == "csv":
        lines = zip(*table.values(), strict=True)
        Path("new.csv").write_text("width,height,colour\n" + "".join(f"{w},{h},{c}\n" for w, h, c in lines))
    else:
        parquet.write_table(pyarrow.table(table), "new.parquet")
    outcome = trainctl("predict", "table", "--input", f"new.{kind}", "--output", output)
    assert "column 3 (colour): 1 cell with a category that training did not have" in outcome.out
    found = rows_of(output)
    assert [row.get("note") or "" for row in found] == ["", "colour: 'violet' was not in training", ""]
    assert all(row["prediction"] in ("yes", "no") for row in found)


@pytest.mark.parametrize("sizes", [(5, 5, 3), (13,), (1,) * 13, (2, 11), (12, 1)], ids=str)
def test_batches_are_cut_evenly(sizes: tuple[int, ...]) -> None:
    batches, start = [], 0
    for size in sizes:
        numbers = range(start, start + size)
        bad = {place: f"bad {n}" for place, n in enumerate(numbers) if n % 5 == 1}
        notes = {place: f"note {n}" for place, n in enumerate(numbers) if n % 5 == 2}
        good = torch.tensor([n for n in numbers if n % 5 != 1])
        batches.append(Batch(numbers, good, bad, notes))
        start += size
    even = list(evenly(batches, 4))
    assert [list(each.names) for each in even] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12]]
    for each in even:
        assert each.inputs.tolist() == [n for n in each.names if n % 5 != 1]
        assert each.errors == {place: f"bad {n}" for place, n in enumerate(each.names) if n % 5 == 1}
        assert each.notes == {place: f"note {n}" for place, n in enumerate(each.names) if n % 5 == 2}


def test_only_bad_rows_are_an_error_and_leave_no_file(trainctl, folder: Path) -> None:
    Path("bad.csv").write_text("width,height,colour\na,b,red\nc,d,red\n")
    Path("out.csv").write_text("before")
    outcome = trainctl("predict", "table", "--input", "bad.csv", "--output", "out.csv", "--force")
    assert outcome.code == 2
    assert "none of 2 rows could be predicted: row 1: line 2, column 1 (width): 'a'" in outcome.err
    assert Path("out.csv").read_text() == "before"
    assert not list(folder.glob(".out*"))


def test_missing_cells_are_bad_where_training_had_none(trainctl, folder: Path) -> None:
    words = ("dataset.missing=error", "hydra.run.dir=strict")
    assert trainctl(*TABLE, *QUICK, *words, "batch_size=16").code == 0
    Path("new.csv").write_text("width,height,colour\n1,,red\n1,2,red\n")
    found = predicted(trainctl, "strict", "new.csv")
    assert found[0]["error"] == "line 2, column 2 (height): the cell is missing, which training had none of"
    assert found[1]["prediction"]


def test_a_column_that_is_missing_is_named_with_the_nearest(trainctl, folder: Path) -> None:
    Path("new.csv").write_text("width,hight,colour\n1,2,red\n")
    outcome = trainctl("predict", "table", "--input", "new.csv", "--output", "out.csv")
    assert outcome.code == 2
    assert "has no column height, which the run was trained on" in outcome.err
    assert "did you mean hight?" in outcome.err


def test_memory_does_not_grow_with_the_table(trainctl, folder: Path) -> None:
    """Eight times the rows, and about the same memory."""
    peaks = []
    for count in (100, 1_000, 8_000):  # the first imports what is needed
        Path("large.csv").write_text("width,height,colour\n" + "1.25,49.5,red\n" * count)
        tracemalloc.start()
        outcome = trainctl("predict", "table", "--input=large.csv", "--output=out.csv", "--batch-size=250")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert f"{count:,} rows" in outcome.out
        assert len(Path("out.csv").read_text().splitlines()) == count + 1
    assert peaks[2] < 1.5 * peaks[1]


# ------------------------------------------------------------------ images and arrays


def test_images_are_predicted_as_the_pixels_are(trainctl, folder: Path) -> None:
    pixels = digits().test.inputs[:30]
    (folder / "new" / "more").mkdir(parents=True)
    names = [f"more/{number:02d}.png" if number % 2 else f"{number:02d}.png" for number in range(30)]
    for name, image in zip(names, pixels, strict=True):
        values = (image[0].double() * 255 / 16).round().to(torch.uint8)
        Image.fromarray(values.numpy()).save(folder / "new" / name)
    (folder / "new" / "notes.txt").write_text("not an image")
    (folder / "new" / "broken.jpg").write_bytes(b"not an image")
    outcome = trainctl("predict", "images", "--input", "new", "--output", "out.csv", "--batch-size", "8")
    assert outcome.code == 0, outcome.err
    found = {row["file"]: row for row in rows_of("out.csv")}
    assert list(found) == sorted([*names, "broken.jpg"])
    assert "1 other file ignored" in outcome.out
    assert found["broken.jpg"]["error"].startswith("cannot be read: no image of a known format")
    expected = reference("images", pixels).tolist()
    close(probabilities([found[name] for name in names]), expected)
    classes = [str(max(range(10), key=values.__getitem__)) for values in expected]
    assert [found[name]["prediction"] for name in names] == classes
    alone = predicted(trainctl, "images", "new/04.png", output="one.jsonl")
    assert [(row["file"], row["prediction"]) for row in alone] == [("04.png", classes[4])]


def test_images_of_another_size_are_counted(trainctl, folder: Path) -> None:
    (folder / "new").mkdir()
    for number, size in enumerate(((8, 8), (16, 12), (8, 8))):
        Image.new("RGB", size, (200, 100, 0)).save(folder / "new" / f"{number}.png")
    outcome = trainctl("predict", "images", "--input", "new", "--output", "out.csv")
    assert outcome.code == 0
    assert "1 images of another size were resized to 8×8" in outcome.out


@pytest.mark.parametrize("how", ["plain", "packed", "columns", "last", "grey"])
def test_arrays_in_any_layout(trainctl, folder: Path, how: str) -> None:
    pixels = digits().test.inputs[:30]
    array = pixels.numpy()
    if how == "last":
        array = numpy.moveaxis(array, 1, 3)
    if how == "grey":
        array = array[:, 0]
    save = numpy.savez_compressed if how == "packed" else numpy.savez
    save("new.npz", inputs=numpy.asfortranarray(array) if how == "columns" else array, other=numpy.zeros(3))
    found = predicted(trainctl, "images", "new.npz", "--batch-size=7")
    close(probabilities(found), reference("images", pixels))


def test_rows_of_an_array_that_are_not_finite_are_named(trainctl, folder: Path) -> None:
    words = ("dataset=synthetic", "dataset.shape=[3]", "dataset.samples=64", "dataset.outputs=2")
    assert trainctl(*words, "epochs=1", "batch_size=16", *QUICK, "hydra.run.dir=run").code == 0
    inputs = numpy.ones((5, 3))
    inputs[3, 1] = numpy.nan
    numpy.savez("new.npz", inputs)
    found = predicted(trainctl, "run", "new.npz")
    assert [row["error"] for row in found] == ["", "", "", "arr_0[3, 1]: nan is not finite in float32", ""]
    # The same numbers as a table, with names or without.
    Path("new.csv").write_text("1,1,1\n1,1,1\n1,1,1\n1,,1\n1,1,1\n")
    table = predicted(trainctl, "run", "new.csv")
    assert [bool(row["error"]) for row in table] == [False, False, False, True, False]
    assert probabilities(table[:3]) == probabilities(found[:3])


class Loud:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path("canary").touch, ()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": numpy.zeros((4, 28, 28), numpy.uint8)}, "samples of shape (28, 28), the run was trained on"),
        ({"x": numpy.zeros((4, 8, 8))}, "values of type float64, the run was trained on uint8"),
        (
            {"a": numpy.zeros(3), "b": numpy.zeros(3)},
            "has several arrays, none with the name of the inputs: a, b",
        ),
        ({"x": numpy.array([Loud()], dtype=object)}, "arrays of objects are not read"),
    ],
)
def test_arrays_that_do_not_fit(trainctl, folder: Path, arrays: dict[str, Any], message: str) -> None:
    numpy.savez("new.npz", **arrays)
    outcome = trainctl("predict", "images", "--input", "new.npz", "--output", "out.csv")
    assert outcome.code == 2
    assert message in outcome.err
    assert not Path("canary").exists()
    assert not Path("out.csv").exists()


def test_a_damaged_array_is_named(trainctl, folder: Path) -> None:
    numpy.savez("new.npz", x=digits().test.inputs[:30].numpy())
    content = bytearray(Path("new.npz").read_bytes())
    content[len(content) // 2] ^= 255
    Path("new.npz").write_bytes(content)
    outcome = trainctl("predict", "images", "--input", "new.npz", "--output", "out.csv")
    assert outcome.code == 2
    assert "x is damaged: Bad CRC-32" in outcome.err
    assert not Path("out.csv").exists()


# ------------------------------------------------------------------ whole numbers


def test_token_numbers_are_predicted_as_what_they_are(trainctl, tmp_path: Path) -> None:
    ids = train_on_tokens(trainctl, tmp_path)
    with torch.no_grad():
        expected = load("run")(ids).softmax(1).tolist()
    for kind in ("int64", "int16", "uint8", "float64", ">i4"):
        numpy.savez("new.npz", x=ids.numpy().astype(kind))
        close(probabilities(predicted(trainctl, "run", "new.npz", "--batch-size=4")), expected)
    numpy.savetxt("new.csv", ids.numpy(), fmt="%d", delimiter=",")
    close(probabilities(predicted(trainctl, "run", "new.csv", "--batch-size=4")), expected)


def test_what_is_no_token_number_is_named(trainctl, tmp_path: Path) -> None:
    ids = train_on_tokens(trainctl, tmp_path)
    with torch.no_grad():
        expected = load("run")(ids).softmax(1).tolist()
    cells = ids.double().numpy()
    cells[1, 2], cells[3, 0], cells[4, 15] = 1.5, numpy.nan, 1e19
    numpy.savez("new.npz", x=cells)
    found = predicted(trainctl, "run", "new.npz")
    assert {int(row["row"]): row["error"] for row in found if row["error"]} == {
        2: "x[1, 2]: 1.5 is not an integer, and the run was trained on int64",
        4: "x[3, 0]: nan does not fit into int64, which the run was trained on",
        5: "x[4, 15]: 1e+19 does not fit into int64, which the run was trained on",
    }
    close(probabilities(found[5:]), expected[5:])
    texts = [[str(number) for number in row] for row in ids.tolist()]
    texts[1][2], texts[3][0], texts[4][15], texts[5][1] = "1.5", "", "1e19", "9007199254740993"
    Path("new.csv").write_text("".join(",".join(row) + "\n" for row in texts))
    found = predicted(trainctl, "run", "new.csv")
    assert {int(row["row"]): row["error"] for row in found if row["error"]} == {
        2: "line 2, column 3: '1.5' is not an integer, and the run was trained on int64",
        4: "line 4, column 1: the cell is missing, which training had none of",
        5: "line 5, column 16: '1e19' does not fit into int64, which the run was trained on",
        6: "line 6, column 2: '9007199254740993' is too large to be read exactly: use an .npz file",
    }
    close(probabilities(found[6:]), expected[6:])
    texts[0][0] = "40"
    Path("new.csv").write_text(",".join(texts[0]) + "\n")
    outcome = trainctl("predict", "run", "--input=new.csv", "--output=none.csv")
    assert outcome.code == 2
    assert "does not accept samples of shape (16,) int64 (rows 1 to 1): index out of range" in outcome.err


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        ("bool", [0.0, 1.0], [2.0, -1.0, 0.5]),
        ("uint8", [0, 255], [256, -1, numpy.inf]),
        ("int8", numpy.array([-128, 127]), numpy.array([128, -129, 1 << 40])),
        ("int64", numpy.array([1 << 63], numpy.uint64) - 1, numpy.array([1 << 63], numpy.uint64)),
        ("int64", [-(2.0**63)], [2.0**63, -(2.0**63) * 1.1, numpy.nan]),
        ("uint64", numpy.array([2.0**63]), numpy.array([2.0**64, -1.0])),
        ("int32", numpy.array([True, False]), numpy.array([1e10])),
        ("float16", [65504.0, 0.1], [1e5, numpy.nan]),
        ("bfloat16", [1e38, 0.1], [1e39, numpy.inf]),
        ("float32", [1e38], [1e39, -numpy.inf]),
        ("float64", [1e300, 0.1], [numpy.inf]),
    ],
)
def test_what_a_type_holds(wanted: str, good: Any, bad: Any) -> None:
    found, strange = convert(numpy.asarray(good), wanted, missing_allowed=False)
    assert found.dtype == getattr(torch, wanted)
    assert not strange.any()
    expected = torch.from_numpy(numpy.asarray(good)).to(found.dtype)
    assert torch.equal(found, expected)
    _, strange = convert(numpy.asarray(bad), wanted, missing_allowed=False)
    assert strange.all()


# ------------------------------------------------------------------ values, scratch models, words


def test_values_of_a_regression(trainctl, folder: Path) -> None:
    words = ("dataset=synthetic", "dataset.task=regression", "dataset.shape=[3]", "dataset.samples=64")
    more = ("dataset.outputs=2", "model=linear", "loss=mse", "epochs=1", "batch_size=16")
    assert trainctl(*words, *more, *QUICK, "hydra.run.dir=run").code == 0
    inputs = torch.randn(6, 3)
    numpy.savez("new.npz", x=inputs.numpy())
    with torch.no_grad():
        expected = load("run")(inputs).tolist()
    found = predicted(trainctl, "run", "new.npz")
    close([[float(row["prediction_1"]), float(row["prediction_2"])] for row in found], expected)
    close([row["prediction"] for row in predicted(trainctl, "run", "new.npz", output="o.jsonl")], expected)


def test_a_model_in_plain_python_predicts_and_is_evaluated(trainctl, folder: Path) -> None:
    assert trainctl("model=scratch_mlp", "epochs=1", *QUICK, "hydra.run.dir=run").code == 0
    assert "the same as recorded" in trainctl("eval", "run").out
    pixels = digits().test.inputs[:10]
    numpy.savez("new.npz", x=pixels.numpy())
    close(probabilities(predicted(trainctl, "run", "new.npz")), reference("run", pixels))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "predict needs --input"),
        (("--input", "new.csv"), "predict needs --output"),
        (("--input=nwe.csv", "--output=out.csv"), "did you mean new.csv?"),
        (("--input=new.csv", "--output=out.parquet"), "use .csv or .jsonl"),
        (("--input=new.csv", "--output=new.csv"), "is the input"),
        (("--input=new.csv", "--output=absent/out.csv"), "there is no folder absent"),
        (("--input=new.csv", "--output=out.csv", "--batch-size=0"), "--batch-size 0: must be a whole number"),
        (("--input=new.csv", "--output=out.csv", "lr=1"), "predict takes no KEY=VALUE words"),
        (("--input=table", "--output=out.csv"), "the run was not trained on images"),
        (("--input=empty.csv", "--output=out.csv"), "empty.csv is empty"),
        (("--input=text.png.csv", "--output=out.csv"), "is not text"),
    ],
)
def test_words_that_do_not_fit(trainctl, folder: Path, words: tuple[str, ...], message: str) -> None:
    write_table(folder / "new.csv", 3, seed=1)
    (folder / "empty.csv").touch()
    Image.new("L", (9, 9)).save(folder / "text.png")
    (folder / "text.png").rename(folder / "text.png.csv")
    before = everything(folder)
    outcome = trainctl("predict", "table", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) <= 2
    assert everything(folder) == before


def test_a_disk_that_will_not_take_it_is_exit_5(
    trainctl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(folder / "new.csv", 3, seed=1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    outcome = trainctl("predict", "table", "--input", "new.csv", "--output", "out.csv")
    assert outcome.code == 5
    assert "--output out.csv cannot be written: No space left on device" in outcome.err
    assert not Path("out.csv").exists()
    assert not list(folder.glob(".out*"))


def test_predictions_replace_predictions_and_nothing_else(trainctl, folder: Path) -> None:
    words = ("predict", "table", "--input", "new.csv", "--output")
    write_table(folder / "new.csv", 20, seed=6)
    for output in ("out.csv", "out.jsonl"):
        assert trainctl(*words, output).code == 0
        Path(output).write_text(Path(output).read_text().splitlines()[0] + "\n")
        assert trainctl(*words, output).code == 0
        assert len(Path(output).read_text().splitlines()) > 1
    Path("empty.csv").touch()
    assert trainctl(*words, "empty.csv").code == 0
    for name, content in (
        ("kept.csv", b"a,b,c\n1,2,3\n"),
        ("one.jsonl", b'{"a": 1}\n'),
        ("b.csv", b"\xff\x00"),
    ):
        Path(name).write_bytes(content)
        outcome = trainctl(*words, name)
        assert outcome.code == 2
        assert f"--output {name}: exists, and holds no predictions" in outcome.err
        assert Path(name).read_bytes() == content
        assert trainctl(*words, name, "--force").code == 0
        assert Path(name).read_bytes() != content
