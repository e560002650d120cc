"""Choose the columns and rows of a table, and report those that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from trainctl.data.tables.columns import Column, as_kind, quoted
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
        notes: how the file was read, where that was a choice.
    """

    file: str
    columns: tuple[Column, ...]
    lines: Sequence[int]
    row_word: Literal["line", "row"] = "line"
    named: bool = True
    left_out: int = 0
    notes: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        """A row in messages."""
        return f"{self.file}, {self.row_word} {self.lines[row]}"


def choose_columns(
    table: Table, target: str | int | None, drop: Sequence[str | int]
) -> tuple[list[Column], Column]:
    """The input columns and the target column, by name, else by number from 1; null is the last column left.

    Raises ConfigError for a column that is absent or cannot be used, and when none is left.
    """
    dropped = {find_column(table, "drop", each).number for each in drop}
    rest = [column for column in table.columns if column.number not in dropped]
    goal = rest[-1] if rest else None
    if target is not None:
        goal = find_column(table, "target", target)
        if goal.number in dropped:
            raise ConfigError(
                f"dataset.drop and dataset.target both name {goal.place}", "drop another column"
            )
    inputs = [column for column in rest if column is not goal]
    if goal is None or not inputs:
        raise ConfigError(
            f"{table.file}: no input column beside the target", "a table needs an input and a target"
        )
    _refuse_unusable(table, [*inputs, goal])
    return inputs, goal


def _refuse_unusable(table: Table, columns: Sequence[Column]) -> None:
    unusable = [column for column in columns if column.unusable]
    if unusable:
        described = ", ".join(f"{column.place} holds {column.unusable}" for column in unusable)
        names = show_names(column.name for column in unusable)
        raise ConfigError(
            f"{table.file}: {described}; columns must hold numbers or text",
            f"leave it out, 'dataset.drop=[{names}]', or store it as numbers (year, hour)",
        )


def find_column(table: Table, key: str, wanted: str | int) -> Column:
    """The column that ``dataset.KEY`` names: by name, else by number from 1, from the end below 0.

    Raises ConfigError with the nearest where there is none.
    """
    by_name = {column.name: column for column in table.columns}
    if str(wanted) in by_name:
        return by_name[str(wanted)]
    count = len(table.columns)
    if re.fullmatch(r"-?\d+", str(wanted)):
        number = int(wanted)
        if 1 <= abs(number) <= count:
            return table.columns[number - 1 if number > 0 else number]
        raise ConfigError(
            f"dataset.{key}={wanted}: {table.file} has the columns 1 to {count}", "-1 is the last one"
        )
    close = nearest(str(wanted), by_name)
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
    for column in like:
        if table.named and first.named:
            second = by_name.get(column.name)
        else:
            second = table.columns[column.number - 1] if column.number <= len(table.columns) else None
        if second is None:
            raise ConfigError(
                f"{table.file} has no {column.place}, which {first.file} has",
                f"a test file has the columns of the training file; there are: {show_names(by_name)}",
            )
        _refuse_unusable(table, [second])
        if second.texts is not None:
            second = as_kind(replace(second, kind=column.kind, comma=column.comma, bad={}))
        elif column.kind != "number":
            raise ConfigError(
                f"{table.file}, {second.place}: numbers, where {first.file} has text",
                "a test file has the columns of the training file",
            )
        found.append(second)
    return found


def usable_rows(
    table: Table, inputs: Sequence[Column], target: Column, missing: str, bad_rows: str
) -> tuple[Tensor, str]:
    """The numbers of the rows to use, (M,) int64, and a note on the others.

    Raises ConfigError for cells that do not fit their column, for missing targets, for missing inputs if
    ``missing`` is ``error``, and when no row is left.
    """
    broken, incomplete = torch.zeros(2, len(table.lines), dtype=torch.bool)
    fatal = []
    for column in (*inputs, target):
        if column.bad:
            broken[list(column.bad)] = True
            if bad_rows == "error":
                fatal.append(_bad_cells(table, column))
        absent = column.missing()
        is_target = column is target
        unused = broken if is_target else incomplete
        unused |= absent
        if (bad_rows if is_target else missing) == "error" and absent.any():
            fatal.append(_missing_cells(table, column, absent, is_target))
    if fatal:
        more = Problem(f"{table.file}: {len(fatal) - _SHOWN_PROBLEMS} more columns with such cells")
        raise ConfigError(fatal[:_SHOWN_PROBLEMS] + ([more] if len(fatal) > _SHOWN_PROBLEMS else []))
    incomplete &= ~broken
    if missing != "drop":
        incomplete[:] = False
    kept = torch.nonzero(~(broken | incomplete)).flatten()
    parts = {
        "that cannot be read": int(broken.sum()) + table.left_out,
        "with missing cells": int(incomplete.sum()),
    }
    described = " and ".join(
        f"{number} row{'s' if number > 1 else ''} {why}" for why, number in parts.items() if number
    )
    if not len(kept):
        raise ConfigError(
            f"{table.file}: no row is left; left out: {described}",
            "change dataset.missing or dataset.bad_rows",
        )
    return kept, f"left out {described}" if described else ""


def _bad_cells(table: Table, column: Column) -> Problem:
    row, reason = next(iter(column.bad.items()))
    text = column.texts[row] if column.texts is not None else f"{float(column.values[row]):g}"
    more = f"; {len(column.bad) - 1} more in this column" if len(column.bad) > 1 else ""
    return Problem(
        f"{table.place(row)}, {column.place}: {quoted(text or '')} {reason}{more}",
        "correct it, or leave such rows out with dataset.bad_rows=skip",
    )


def _missing_cells(table: Table, column: Column, absent: Tensor, is_target: bool) -> Problem:
    more = int(absent.sum()) - 1
    others = f"; {more} more in this column" if more else ""
    what, remedy = "cell", "use dataset.missing=mean (the training mean), or drop to leave such rows out"
    if is_target:
        what, remedy = "target", "use dataset.bad_rows=skip, or another dataset.target"
    return Problem(
        f"{table.place(int(absent.nonzero()[0]))}, {column.place}: the {what} is missing{others}", remedy
    )


def refuse_useless(table: Table, inputs: Sequence[Column]) -> None:
    """Raise ConfigError for input columns without information: empty ones, and texts that name the rows."""
    useless = {}
    for column in inputs:
        present = int((~column.missing()).sum())
        distinct = len({*(column.texts or ())} - {None}) if column.kind == "text" else 0
        if not present:
            useless[column.name] = f"{column.place} has no values"
        elif distinct > max(_FEW_CATEGORIES, present / 2):
            useless[column.name] = f"{column.place} has {distinct} different texts in {present} rows"
    if useless:
        described = "; ".join([*useless.values()][:_SHOWN_PROBLEMS])
        more = f"; and {len(useless) - _SHOWN_PROBLEMS} more" if len(useless) > _SHOWN_PROBLEMS else ""
        raise ConfigError(
            f"{table.file}: {described}{more}: such columns cannot be inputs",
            f"leave them out: 'dataset.drop=[{show_names(useless)}]'",
        )


def show_names(names: Iterable[str]) -> str:
    """Names of columns as they are typed in a list on the command line."""
    escaped = (name.replace('"', '\\"') for name in names)
    return ", ".join(name if _PLAIN_NAME.fullmatch(name) else f'"{name}"' for name in escaped)
