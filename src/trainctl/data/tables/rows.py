"""Choose the columns and rows of a table, and report those that cannot be used."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from trainctl.data.tables.columns import Column, as_kind, quoted
from trainctl.data.tables.dates import have_short_years
from trainctl.data.tables.numbers import TIME
from trainctl.errors import ConfigError, Problem, nearest

_SHOWN_PROBLEMS = 5
_FEW_CATEGORIES = 20
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]([\w.\- ]*[\w.\-])?", re.ASCII)


@dataclass(frozen=True)
class Table:
    """The contents of a file.

    Attributes:
        file: its path, for messages.
        lines: each row's number in the file.
        row_word: the unit of these numbers, ``line`` or ``row``.
        named: the columns have names.
        left_out: rows that were left out while reading.
        marks: cells without a value; None is the usual ones.
        notes: how the file was read, where that was a choice.
    """

    file: str
    columns: tuple[Column, ...]
    lines: Sequence[int]
    row_word: Literal["line", "row"] = "line"
    named: bool = True
    left_out: int = 0
    marks: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The number of columns in the file."""
        return max((column.number for column in self.columns), default=0)

    def place(self, row: int) -> str:
        """A row in messages."""
        return f"{self.file}, {self.row_word} {self.lines[row]}"


def choose_columns(
    table: Table,
    target: str | int | Sequence[str | int] | None,
    drop: Sequence[str | int],
    keep: Sequence[str | int] = (),
    categories: Sequence[str | int] = (),
    task: str = "auto",
) -> tuple[list[Column], list[Column], dict[int, str]]:
    """The input columns, the target columns, and why each of the others was left out, by number.

    Columns are found by name or number; a target of null is the last column left. Columns that number the
    rows are no inputs, unless ``keep`` has them; those of ``categories`` are taken as text.

    Raises ConfigError for a column that is absent or cannot be used, and when none is left.
    """
    dropped = {find_column(table, "drop", each).number for each in drop}
    kept = {find_column(table, "keep", each).number for each in keep}
    as_text = {find_column(table, "categories", each).number for each in categories}
    left_out = {column.number: column.no_input for column in table.columns if column.no_input}
    left_out = {number: why for number, why in left_out.items() if number not in kept | as_text}
    left_out |= dict.fromkeys(dropped, "dataset.drop")
    rest = [column for column in table.columns if column.number not in left_out]
    goals = rest[-1:] if target is None else target_columns(table, target)
    for goal in goals:
        if goal.number in dropped:
            raise ConfigError(
                f"dataset.drop and dataset.target both name {goal.place}", "drop another column"
            )
        left_out.pop(goal.number, None)
    inputs = [column for column in rest if column.number not in {goal.number for goal in goals}]
    if not inputs:
        raise ConfigError(
            f"{table.file}: no input column beside the target{left_out_columns(table, left_out)}",
            "a table needs an input and a target",
        )
    inputs = [column.as_text() if column.number in as_text else column for column in inputs]
    goals = [
        goal.as_text()
        if goal.texts is not None and (goal.number in as_text or (task == "classification" and goal.unclear))
        else goal
        for goal in goals
    ]
    _refuse_unusable(table, [*inputs, *goals])
    return inputs, goals, left_out


def target_columns(table: Table, target: str | int | Sequence[str | int]) -> list[Column]:
    """The columns that ``dataset.target`` names. Raises ConfigError for none, and for one named twice."""
    names = [target] if isinstance(target, str | int) else target
    goals = [find_column(table, "target", name) for name in names]
    twice = next((goal for goal in goals if [each.number for each in goals].count(goal.number) > 1), None)
    if twice is not None or not goals:
        given = f"[{show_names(map(str, names))}]"
        why = "is empty" if twice is None else f"names {twice.place} twice"
        raise ConfigError(f"dataset.target={given} {why}", "name each column to predict once")
    return goals


def left_out_columns(table: Table, left_out: Mapping[int, str]) -> str:
    """The columns that were left out and why, as the end of a message; empty if there are none."""
    described = [
        f"{column.place}: {left_out[column.number]}" for column in table.columns if column.number in left_out
    ]
    return f" (left out: {'; '.join(described[:_SHOWN_PROBLEMS])})" if described else ""


def _refuse_unusable(table: Table, columns: Sequence[Column]) -> None:
    unusable = [column for column in columns if column.unusable]
    if unusable:
        described = ", ".join(f"{column.place} holds {column.unusable}" for column in unusable)
        names = show_names(column.name for column in unusable)
        raise ConfigError(
            f"{table.file}: {described}; columns must hold numbers or text",
            f"leave it out, 'dataset.drop=[{names}]', or store it as numbers (year, hour)",
        )
    unclear = [column.unclear for column in columns if column.unclear]
    if unclear:
        raise ConfigError(
            [Problem(f"{table.file}, {what}", remedy) for what, remedy in unclear[:_SHOWN_PROBLEMS]]
        )


def find_column(table: Table, key: str, wanted: str | int) -> Column:
    """The column that ``dataset.KEY`` names: a text by name, else by number; a number the other way round.

    Numbers count from 1, from the end below 0. Raises ConfigError with the nearest where there is none.
    """
    by_name = {column.name: column for column in table.columns}
    name = unicodedata.normalize("NFC", str(wanted))
    if isinstance(wanted, str) and name in by_name:
        return by_name[name]
    count = table.width
    if re.fullmatch(r"-?\d+", name):
        number = int(name) if int(name) > 0 else count + 1 + int(name)
        found = next((column for column in table.columns if int(name) and column.number == number), None)
        found = found or by_name.get(name)
        if found is not None:
            return found
        raise ConfigError(
            f"dataset.{key}={wanted}: {table.file} has the columns 1 to {count}", "-1 is the last one"
        )
    if not table.named:
        raise ConfigError(
            f"dataset.{key}={wanted}: {table.file} has no names of columns, because line {table.lines[0]} is"
            " taken for a row",
            f"if it is the header, use dataset.header=true; columns have the numbers 1 to {count}",
        )
    close = nearest(name, by_name)
    hint = f"did you mean {show_names([close])}? " if close else ""
    raise ConfigError(
        f"dataset.{key}={wanted}: {table.file} has no such column",
        f"{hint}there are: {show_names(by_name)}",
    )


def match_columns(table: Table, like: Sequence[Column], first: Table) -> list[Column]:
    """The columns of a second file that belong to those of the first, read as the same kinds.

    Raises ConfigError when one is not there, or holds something else.
    """
    found = []
    by_name = {column.name: column for column in table.columns}
    by_number = {column.number: column for column in table.columns}
    for column in like:
        by_names = table.named and first.named
        second = by_name.get(column.name) if by_names else by_number.get(column.number)
        if second is None:
            raise ConfigError(
                f"{table.file} has no {column.place}, which {first.file} has",
                f"a test file has the columns of the training file; there are: {show_names(by_name)}",
            )
        _refuse_unusable(table, [replace(second, unclear=None)])
        if second.texts is not None and not (second.stored and column.kind == "number"):
            second = replace(second, kind=column.kind, notation=column.notation, signs=column.signs)
            second = replace(as_kind(replace(second, bad={})), labels=column.labels)
        elif column.kind == "text" and column.labels:
            second = replace(second.as_text(), labels=True)
        elif column.kind != "number" or second.notation.unit != column.notation.unit:
            raise ConfigError(
                f"{table.file}, {second.place}: {_held(second)}, where {first.file} has {_held(column)}",
                "a test file has the columns of the training file",
            )
        found.append(second)
    return found


def _held(column: Column) -> str:
    if column.kind == "text":
        return "text"
    return "times" if column.notation.unit == TIME else "numbers"


def usable_rows(
    table: Table, inputs: Sequence[Column], targets: Sequence[Column], missing: str, bad_rows: str
) -> tuple[Tensor, str]:
    """The numbers of the rows to use, (M,) int64, and a note on the others.

    Raises ConfigError for cells that do not fit their column, for missing targets, for missing inputs if
    ``missing`` is ``error``, and when no row is left. Rows without a target, or without one of several, are
    left out if ``bad_rows`` is ``auto``.
    """
    broken, incomplete, without_target = torch.zeros(3, len(table.lines), dtype=torch.bool)
    fatal = []
    for number, column in enumerate((*inputs, *targets)):
        if column.bad:
            broken[list(column.bad)] = True
            if bad_rows != "skip":
                fatal.append(_bad_cells(table, column))
        is_target, absent = number >= len(inputs), column.missing()
        if is_target:
            without_target |= absent
        else:
            incomplete |= absent
        if (bad_rows if is_target else missing) == "error" and absent.any():
            fatal.append(_missing_cells(table, column, absent, is_target))
    without_target &= ~broken
    if fatal:
        more = Problem(f"{table.file}: {len(fatal) - _SHOWN_PROBLEMS} more columns with such cells")
        raise ConfigError(fatal[:_SHOWN_PROBLEMS] + ([more] if len(fatal) > _SHOWN_PROBLEMS else []))
    incomplete &= ~(broken | without_target)
    if missing != "drop":
        incomplete[:] = False
    kept = torch.nonzero(~(broken | without_target | incomplete)).flatten()
    parts = {
        "that cannot be read": int(broken.sum()) + table.left_out,
        f"without {'a' if len(targets) == 1 else 'all'} target{'s' * (len(targets) > 1)}"
        f"{_marks(targets)}": int(without_target.sum()),
        "with missing cells": int(incomplete.sum()),
    }
    described = " and ".join(
        f"{number} row{'s' if number > 1 else ''} {why}" for why, number in parts.items() if number
    )
    if not len(kept):
        raise ConfigError(
            f"{table.file}: no row is left; left out: {described}",
            "change dataset.missing, dataset.missing_marks or dataset.bad_rows",
        )
    return kept, f"left out {described}" if described else ""


def _marks(targets: Sequence[Column]) -> str:
    """The cells that stand for a missing target, where they could be the name of a class."""
    marks = [mark for target in targets if target.kind != "number" for mark in target.marks]
    return f" ({', '.join(marks)}; dataset.missing_marks=[] makes such texts classes)" if marks else ""


def _bad_cells(table: Table, column: Column) -> Problem:
    row, reason = next(iter(column.bad.items()))
    text = column.cell(row)
    more = f"; {len(column.bad) - 1} more in this column" if len(column.bad) > 1 else ""
    return Problem(
        f"{table.place(row)}, {column.place}: {quoted(text or '')} {reason}{more}",
        f"correct it, or leave such rows out with dataset.bad_rows=skip{_mark_hint(column)}",
    )


def _mark_hint(column: Column) -> str:
    """The way to say that a text which is all that is wrong with a column stands for a missing value."""
    texts = {column.texts[row] for row in column.bad} if column.texts is not None else set()
    if len(texts) != 1 or len(column.bad) == 1 or column.kind != "number":
        return ""
    return f"; if it is a missing value, use 'dataset.missing_marks=[{show_names(map(str, texts))}]'"


def _missing_cells(table: Table, column: Column, absent: Tensor, is_target: bool) -> Problem:
    more = int(absent.sum()) - 1
    others = f"; {more} more in this column" if more else ""
    what, remedy = "cell", "use dataset.missing=mean (the training mean), or drop to leave such rows out"
    if is_target:
        what, remedy = "target", "use dataset.bad_rows=skip, or another dataset.target"
    return Problem(
        f"{table.place(int(absent.nonzero()[0]))}, {column.place}: the {what} is missing{others}", remedy
    )


def useless_columns(inputs: Sequence[Column], keep: Collection[int]) -> dict[int, str]:
    """Why input columns have no information, by number: empty ones, and texts that name the rows.

    Those of ``keep`` are none of them.
    """
    useless = {}
    for column in inputs:
        present = int((~column.missing()).sum())
        distinct = len(column.texts.counts()) if column.kind == "text" and column.texts is not None else 0
        if not present:
            useless[column.number] = "no values"
        elif distinct > max(_FEW_CATEGORIES, present / 2) and column.number not in keep:
            short = column.texts is not None and have_short_years(column.texts.counts())
            what = "dates with a year of two digits, where four are needed" if short else "different texts"
            useless[column.number] = f"{distinct} {what} in {present} rows"
    return useless


def show_names(names: Iterable[str]) -> str:
    """Names of columns as they are typed in a list on the command line."""
    escaped = (name.replace('"', '\\"') for name in names)
    return ", ".join(name if _PLAIN_NAME.fullmatch(name) else f'"{name}"' for name in escaped)
