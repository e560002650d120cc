"""Texts and classes of a CSV file: how they are read, cut and counted, trained on and predicted."""

from __future__ import annotations

import csv
import json
import zlib
from pathlib import Path

import pytest
import torch

from trainctl.components.datasets.csv_text import csv_text
from trainctl.data import Split
from trainctl.errors import ConfigError

ROWS = [
    ("1", "A fine, FINE day", "good"), ("2", "cold and late again and again", "bad"),
    ("3", "", "bad"), ("4", "NA", "good"), ("5", "fine", ""), ("6", "Crème brûlée", "good"),
]  # fmt: skip


def write(path: Path, rows: list[tuple[str, ...]], names: tuple[str, ...] = ("id", "text", "verdict")) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return str(path)


def word(text: str) -> int:
    return zlib.crc32(text.encode()) % (2**31 - 1) + 1


def test_words_and_bytes_of_the_longest_column(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ROWS)
    data = csv_text(path, length=4, test=0)
    assert isinstance(data.train, Split)
    expected = [
        [word("a"), word("fine"), word(","), word("fine")],
        [word("cold"), word("and"), word("late"), word("again")],
        [0, 0, 0, 0],
        [word("na"), 0, 0, 0],
        [word("crème"), word("brûlée"), 0, 0],
    ]
    assert data.train.inputs.tolist() == expected
    assert data.train.targets.tolist() == [1, 0, 0, 1, 1]
    assert data.classes == ("bad", "good")
    assert data.note == (
        "texts of column 2 (text) in words, classes of column 3 (verdict); 1 rows without a class left out;"
        " 1 texts are empty; 2 texts cut after 4 words"
    )
    data = csv_text(path, text="id", tokens="bytes", length=2, test=0)
    assert data.train.inputs.tolist() == [[ord(each) + 1, 0] for each in "12346"]  # type: ignore[union-attr]


def test_a_large_file_is_read_as_a_small_one(tmp_path: Path) -> None:
    rows = [
        (str(number), f"word{number % 97} and {'x' * 50} NA", "ab"[number % 2]) for number in range(40_000)
    ]
    data = csv_text(write(tmp_path / "t.csv", rows), length=8, test=0)
    assert isinstance(data.train, Split)
    assert len(data.train) == 40_000
    for row in (0, 31, 39_999):
        words = [f"word{row % 97}", "and", "x" * 50, "na"]
        assert data.train.inputs[row].tolist() == [*map(word, words), 0, 0, 0, 0]
        assert data.train.targets[row] == row % 2


@pytest.mark.parametrize(
    ("arguments", "rows", "said"),
    [
        ({"text": "txet"}, ROWS, "no such column"),
        ({"text": "verdict"}, ROWS, "is both the text and the target"),
        ({"target": "id", "text": "text"}, [(str(n), "a", "b") for n in range(60)], "too many for classes"),
        ({}, [("1", "a", "b"), ("2", "c", "b")], "every row has the target 'b'"),
        ({}, [("1", "a", ""), ("2", "c", "")], "every cell is empty"),
        ({"like": {"tokens": "bytes", "length": 128, "kind": "texts"}}, ROWS, "the model was trained with"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, arguments: dict, rows: list, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        csv_text(write(tmp_path / "t.csv", rows), **arguments)


def test_from_a_file_to_predictions(trainctl, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = []
    for number in range(240):
        kind = number % 2
        words = [f"{'ab'[kind]}{torch.randint(5, (), generator=draw)}" for _ in range(4)]
        rows.append((str(number), " ".join([*words, "and so on"]), ("up", "down")[kind]))
    write(tmp_path / "t.csv", rows)
    # Another order of columns, and classes in which one is absent.
    write(tmp_path / "other.csv", [(b, c, a) for a, b, c in rows[::2]], ("text", "verdict", "id"))
    words = ("dataset=csv_text", "dataset.path=t.csv", "dataset.length=6", "model=embedding_bag")
    few = ("model.buckets=512", "epochs=4", "lr=0.03", "threads=1", "display.mode=none")
    outcome = trainctl(*words, *few, "train.metrics=[accuracy,f1]", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["test"]["test/accuracy"] == 1.0
    assert record["monitor"]["name"] == "val/accuracy"

    outcome = trainctl("eval", "run", "dataset.path=other.csv", "--split", "all")
    assert outcome.code == 0, outcome.err
    assert "all/accuracy  1.0" in outcome.out

    outcome = trainctl("predict", "run", "--input", "other.csv", "--output", "p.csv")
    assert outcome.code == 0, outcome.err
    assert "120 texts cut after 6 words, as in training" in outcome.out + outcome.err
    with (tmp_path / "p.csv").open() as file:
        assert {row["prediction"] for row in csv.DictReader(file)} == {"up"}

    outcome = trainctl(*words[:3], "model=mlp", *few[1:])
    assert outcome.code == 2
    assert "model=mlp does not take inputs of shape" in outcome.err


def test_a_model_for_numbers_names_those_for_tokens(trainctl) -> None:
    outcome = trainctl("dataset=text", "dataset.context=16", "dataset.limit=64", "train.max_steps=1")
    assert outcome.code == 2
    assert (
        "dataset=text gives tokens: model=embedding_bag for classes of texts, transformer or lstm"
        in outcome.err
    )
