"""The header of a table, and columns that only number its rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from trainctl.data.tables.columns import Column, is_number, present, read_column

_SAMPLE_ROWS = 200
_INDEX = re.compile(r"Unnamed: ?\d+(_level_\d+)?(\.\d+)?|__index_level_\d+__", re.IGNORECASE)
"""Names that data frames give to an index without a name."""
_NUMBERING = re.compile(
    r"(?i:(.*[_ .-])?(id|index|idx|rows?|nr|no\.?|number|obs(ervation)?|case|#)"
    r"|row.?(id|names?|num(ber)?|nr|no)|level_\d+)|[A-Za-z]+Id"
)
"""Names of columns that count the rows."""
_IN_QUOTES = re.compile("'[^']+'")
"""A name in quotes that are not those of CSV."""
_ROWS_TO_COUNT = 10
Header = Literal["auto"] | bool
Rows = Sequence[tuple[int, Sequence[str]]]


def has_header(even: Rows, header: Header, separator: str) -> bool:
    """Is the first row the header? Names differ from the cells below them: in kind, or at least in text."""
    if header != "auto":
        return header
    first, below = even[0][1], [cells for _, cells in even[1 : _SAMPLE_ROWS + 1]]
    if not below:
        return not any(is_number(cell) for cell in first)
    names = values = new_texts = numbers_above = 0
    for index, cell in enumerate(first):
        column = read_column("", 0, [cells[index] for cells in below], delimiter=separator)
        if column.kind == "text" and column.texts is not None:
            new_texts += _is_new(cell, column)
            numbers_above += (
                is_number(cell) and _is_new(f"{cell}?", column) and cell not in (column.texts or ())
            )
            continue
        if column.missing().all() or present(cell) is None:
            continue
        if is_number(cell) or (column.kind == "flag" and cell.lower() in ("true", "false")):
            values += 1
        else:
            names += 1
    # Columns 0, 1, 2 or 2019, 2020, 2021 under names that are no cells.
    if values and (names or new_texts or numbers_above) and _counts(first):
        return True
    if names or values:
        return names >= values
    # Text only: a name does not occur as a cell below.
    different = len(set(first)) == len(first) and all(first)
    return different and not any(cell == cells[index] for index, cell in enumerate(first) for cells in below)


def _is_new(cell: str, column: Column) -> bool:
    """Is it a name above a column of a few texts, none of them the same?"""
    counted = column.texts.counts() if column.texts is not None else {}
    few = 2 * len(counted) <= sum(counted.values())
    return bool(cell) and not is_number(cell) and cell not in counted and few


def _counts(cells: Sequence[str]) -> bool:
    """Are the numbers among the cells of a row consecutive?"""
    numbers = [int(cell) for cell in cells if re.fullmatch(r"\d{1,9}", cell)]
    if len(numbers) != sum(is_number(cell) for cell in cells):
        return False
    consecutive = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return consecutive and len(numbers) > 1 and (numbers[0] in (0, 1) or len(numbers) > 2)


def may_be_header(even: Rows) -> bool:
    """Has the first row, taken for a sample, a text that its column has nowhere else?"""
    first, below = even[0][1], [cells for _, cells in even[1 : _SAMPLE_ROWS + 1]]
    columns = ([cells[index] for cells in below] for index in range(len(first)))
    return any(_is_new(cell, read_column("", 0, cells)) for cell, cells in zip(first, columns, strict=True))


def short_header(rows: Rows, header: Header) -> list[str] | None:
    """The names of the columns where the first row has no name for the row names, as R writes tables."""
    if header is False or len(rows) < 2:
        return None
    width = len(rows[1][1])
    first = list(rows[0][1])
    if len(first) != width - 1 or any(len(cells) != width for _, cells in rows[1 : _SAMPLE_ROWS + 1]):
        return None
    row_names = [cells[0] for _, cells in rows[1:]]
    if len(set(row_names)) < len(row_names) or any(is_number(name) for name in first):
        return None
    return ["", *first]


def unique_names(names: Sequence[str] | None, width: int) -> list[str]:
    """A name for each column: the header's, the number if that is blank, ``a.2`` for a second ``a``."""
    if names is None:
        return [str(number) for number in range(1, width + 1)]
    given = [name or str(number) for number, name in enumerate(names, 1)]
    taken: Counter[str] = Counter()
    unique: list[str] = []
    for name in given:
        taken[name] += 1
        new = name
        while new in unique or (taken[name] > 1 and new in given):
            new = f"{name}.{taken[name]}"
            taken[name] += new in unique or new in given
        unique.append(new)
    return unique


def why_no_input(column: Column, name: str | None) -> str:
    """Why a column is no input: it numbers or names the rows; empty for all others.

    Args:
        name: in the header, empty if that is blank; None without a header.
    """
    if name is not None and _INDEX.fullmatch(name):
        return "the index of a data frame"
    if column.number != 1 and not (name and _NUMBERING.fullmatch(name)):
        return ""
    if name == "":
        return "no name, as the index of a data frame or the row names of R"
    if column.kind != "number" or column.bad or len(column.values) < 2:
        return ""
    if name is None:
        begins = len(column.values) >= _ROWS_TO_COUNT and column.values[0] in (0, 1)
        return "row numbers" if begins and _are_consecutive(column.values) else ""
    # In any order: rows may have been shuffled.
    numbers = _NUMBERING.fullmatch(name) and _are_consecutive(column.values.sort().values)
    return "row numbers" if numbers else ""


def _are_consecutive(values: Tensor) -> bool:
    return bool((torch.diff(values) == 1).all())


def read_columns(
    names: Sequence[str] | None,
    width: int,
    read: Callable[[int, str, str], Column],
    decimal: str = "auto",
) -> list[Column]:
    """The columns of a text file; ``names`` is its header, ``read`` gives the column at a position.

    Decimals have one sign in a file: a column that could be read in two ways is read like the others.
    """
    if names is not None and all(_IN_QUOTES.fullmatch(name) for name in names):
        names = [name[1:-1] for name in names]
    unique = unique_names(names, width)

    def one(index: int, decimal: str) -> Column:
        column = read(index, unique[index], decimal)
        return replace(column, no_input=why_no_input(column, None if names is None else names[index]))

    columns = [one(index, decimal) for index in range(width)]
    if decimal != "auto":
        return columns
    commas = {
        column.notation.comma for column in columns if column.kind == "number" and column.notation.proven
    }
    if len(commas) != 1:
        return columns
    found = "," if commas == {True} else "."
    return [
        one(index, found)
        if column.notation.unclear
        or (found == "," and column.kind == "number" and not column.notation.proven)
        else column
        for index, column in enumerate(columns)
    ]
