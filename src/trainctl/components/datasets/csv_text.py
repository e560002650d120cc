"""Texts in a table, each with its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from trainctl.data import Data, Split
from trainctl.data.files import find_file
from trainctl.data.tables.columns import Column
from trainctl.data.tables.rows import Table, find_column
from trainctl.data.tables.target import Target, encode_targets, read_target
from trainctl.data.tables.text_file import TextOptions, read_table
from trainctl.data.tables.words import read_tokens, tokens_of, unit_of
from trainctl.data.types import split_rows
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS, Count, Fraction, NonNegativeInt


@DATASETS.register("csv_text")
def csv_text(
    path: str,
    text: str | int | None = None,
    target: str | int | None = None,
    tokens: str = "words",
    length: Count = 128,
    test: Fraction | NonNegativeInt = 0.2,
    test_path: str | None = None,
    test_seed: NonNegativeInt = 0,
    delimiter: str = "auto",
    encoding: str = "auto",
    header: Literal["auto"] | bool = "auto",
    like: Mapping[str, Any] | None = None,
) -> Data:
    """Texts of your own in a CSV file, one column of texts and one of classes.

    Cells are taken as they stand: NA is a word. Rows with an empty class are left out and counted.

    Args:
        path: the file, plain or gzipped.
        text: the column of texts, by name or by number from 1; null is the one with the longest cells.
        target: the column of classes; null is the last one.
        tokens: words, in small letters, and signs, each by a hash; bytes; or a tokenizer.json of Hugging
            Face's tokenizers (extra ``tokenizers``), which the run keeps.
        length: tokens of a text that are used; those behind are cut off, and the texts counted.
        test: rows to hold out for the test, a count or a fraction; 0 for none.
        test_path: another file with the same columns to test on, in the place of ``test``.
        test_seed: chooses the rows of ``test``.
        delimiter: one character, or tab, semicolon, pipe, comma, space; auto detects it.
        encoding: auto is the encoding of a byte order mark, else UTF-8, else cp1252.
        header: whether the first row has the names of the columns; auto detects it.

    ``like`` describes the texts that a model was trained on: these are read the same way.

    Shape: inputs (N, length) int32, 0 behind a text; targets (N,) int64.

    Raises:
        ConfigError: naming file, line and column, for data that cannot be used.
        MissingDataError: when the file is not there.
    """
    reading = read_tokens(tokens, length, like)
    if like is not None:
        text, target = _trained_columns(like, reading)
    options = TextOptions(delimiter, encoding, header, 0, "error", "auto", [])
    table = read_table("path", find_file("csv_text", "path", path, ""), options)
    column, goal = _columns(table, text, target)
    rows = _labelled(table, goal)
    if like is None:
        classes = read_target(table.file, goal.keep(rows), "auto")
    else:
        classes = Target("classification", tuple(like["classes"]), "")
    train, counts = _split(table, column, goal, rows, classes, reading)
    held: Split | None
    if test_path is not None:
        file = find_file("csv_text", "test_path", test_path, "")
        other = read_table("test_path", file, replace(options, header=table.named))
        key = "name" if table.named else "number"
        pair = _columns(other, getattr(column, key), getattr(goal, key))
        held, _ = _split(other, *pair, _labelled(other, pair[1]), classes, reading)
    else:
        kept, chosen = split_rows(len(train), test, test_seed)
        train, held = train[kept], None if chosen is None else train[chosen]
    described = [{"name": each.name, "number": each.number, "kind": "text"} for each in (column, goal)]
    reading |= {
        "columns": [{**described[0], "categories": []}],
        "targets": described[1:],
        "classes": list(classes.classes),
        "named": table.named,
        "width": table.width,
        "missing": "mean",
        "missing_marks": [],
    }
    return Data(
        name=Path(path).name,
        task="text_classification",
        train=train,
        test=held,
        input_shape=(length,),
        output_size=len(classes.classes),
        transform=nn.Identity(),
        classes=classes.classes,
        note="; ".join([*_notes(column, goal, counts, reading, len(table.lines) - len(rows)), *table.notes]),
        reading=reading,
    )


def _trained_columns(like: Mapping[str, Any], reading: Mapping[str, Any]) -> tuple[str | int, str | int]:
    """The columns of the texts that a model was trained on. Raises ConfigError where it reads others."""
    if any(like.get(key) != value for key, value in reading.items()):
        asked, trained = (
            f"dataset.tokens={each.get('tokens')} dataset.length={each.get('length')}"
            for each in (reading, like)
        )
        raise ConfigError(f"{asked}: the model was trained with {trained}", "train a new run with others")
    key = "name" if like["named"] else "number"
    return like["columns"][0][key], like["targets"][0][key]


def _columns(table: Table, text: str | int | None, target: str | int | None) -> tuple[Column, Column]:
    """The column of texts and that of classes, both as text."""
    goal = table.columns[-1] if target is None else find_column(table, "target", target)
    others = [column for column in table.columns if column.number != goal.number]
    if text is not None:
        column = find_column(table, "text", text)
    elif others:
        column = max(others, key=_letters)
    else:
        raise ConfigError(f"{table.file} has one column", "texts and their classes need one each")
    if column.number == goal.number:
        raise ConfigError(
            f"{table.file}, {column.place}: is both the text and the target",
            "name both: dataset.text=NAME dataset.target=NAME",
        )
    return column.as_text(), goal.as_text()


def _letters(column: Column) -> int:
    texts = column.as_text().texts
    return 0 if texts is None else sum(len(text or "") * count for text, count in texts.counts().items())


def _labelled(table: Table, goal: Column) -> Tensor:
    rows = (~goal.missing()).nonzero().flatten()
    if not len(rows):
        raise ConfigError(f"{table.file}, {goal.place}: every cell is empty", "name another: dataset.target=")
    return rows


def _split(
    table: Table, column: Column, goal: Column, rows: Tensor, classes: Target, reading: Mapping[str, Any]
) -> tuple[Split, Tensor]:
    """The samples of some rows, and the number of tokens in each of their texts."""
    texts = column.keep(rows).texts
    assert texts is not None
    inputs, counts = tokens_of(texts, reading)
    return Split(inputs, encode_targets(table, rows, [goal], classes, None)), counts


def _notes(
    column: Column, goal: Column, counts: Tensor, reading: Mapping[str, Any], left_out: int
) -> list[str]:
    notes = [f"texts of {column.place} in {unit_of(reading)}, classes of {goal.place}"]
    for number, what in (
        (left_out, "rows without a class left out"),
        (int((counts == 0).sum()), "texts are empty"),
        (int((counts > reading["length"]).sum()), f"texts cut after {reading['length']} {unit_of(reading)}"),
    ):
        if number:
            notes.append(f"{number:,} {what}")
    return notes
