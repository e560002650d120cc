"""Compared runs as tables of text: settings ranked, and the runs that are not ranked."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainctl.analysis.ranking import Comparison, Group, Other, Row, short, shown
from trainctl.paths import short_path
from trainctl.training.display import duration, number
from trainctl.ui.table import NOTHING, Column, Table

NOTHING_RANKED = "nothing to rank: no finished run has a validation result"
_REASON = 100
_LEAST_REASON = 40
_REASONS = 3


def clean(text: str) -> str:
    """Text from a file, without control characters that a terminal would obey."""
    return "".join("�" if unicodedata.category(each) in ("Cc", "Cs") else each for each in text)


def title(group: Group) -> str:
    """The heading of a ranked table."""
    settings, runs = len(group.rows), sum(len(row.runs) for row in group.rows)
    many = f"{settings} setting{'s' if settings > 1 else ''}" + (f", {runs} runs" if runs != settings else "")
    better = "lower" if group.monitor.lower_is_better else "higher"
    return clean(f"{group.about or group.monitor.name}: {many}, best first ({better} is better)")


def table(group: Group) -> Table:
    """A ranked group as a table."""
    rows = group.rows
    seeds = {_seeds(row) for row in rows}
    folded = any(len(row.runs) > 1 or row.unfinished for row in rows)
    columns: list[tuple[Column, list[str]]] = [
        (Column("#", True), [rank(row) for row in rows]),
        *(
            (Column(short(key), _is_number(rows, key)), [_setting(row.settings[key]) for row in rows])
            for key in group.columns
        ),
        (Column(group.monitor.name, True), [value(row) for row in rows]),
    ]
    if folded:
        columns.append((Column("n", True), [count(row) for row in rows]))
    if len(seeds) > 1:
        columns.append((Column("seed", expendable=1), [_seeds(row) for row in rows]))
    if any(row.runs[0].name for row in rows):
        columns.append((Column("name", expendable=1), [row.runs[0].name for row in rows]))
    columns += [
        (Column("time", True, 2), [_time(row.seconds) for row in rows]),
        (Column("steps", True, 3), [_number(row.runs[0].step) for row in rows]),
        (Column("parameters", True, 4), [_number(row.runs[0].parameters) for row in rows]),
        (Column("best run", path=True), [place(row.runs[0].directory) for row in rows]),
    ]
    heads = tuple(replace(each, name=clean(each.name)) for each, _ in columns)
    cells = zip(*([clean(cell) for cell in filled] for _, filled in columns), strict=True)
    return Table(heads, tuple(cells), title(group))


def rank(row: Row) -> str:
    return NOTHING if row.rank is None else str(row.rank)


def value(row: Row) -> str:
    """The mean, with the standard deviation where there is one."""
    if not math.isfinite(row.mean):
        return "not finite"
    return number(row.mean) if row.deviation is None else f"{number(row.mean)} ± {number(row.deviation)}"


def count(row: Row) -> str:
    """How many seeds and folds; where some did not finish, of how many."""
    done = len(row.runs)
    return f"{done} of {done + row.unfinished}" if row.unfinished else str(done)


def label(row: Row) -> str:
    """A row's settings as they are typed; where none vary, its run's name or directory."""
    typed = " ".join(f"{short(key)}={_setting(each)}" for key, each in row.settings.items())
    return clean(typed or row.runs[0].name or place(row.runs[0].directory))


def other_label(other: Other) -> str:
    """An unranked run's settings or name; without either its directory."""
    return clean(other.label) or place(other.entry.directory)


def others(comparison: Comparison, width: int | None = None) -> Table:
    """The runs that are not ranked, as a table; reasons are cut where it would be wider than ``width``."""
    columns = (
        Column("state"),
        Column("exit", True),
        Column("run"),
        Column("directory", path=True),
        Column("reason"),
    )
    rows = [
        (
            each.entry.state,
            "" if each.entry.exit_code is None else str(each.entry.exit_code),
            clean(each.label) or clean(each.entry.directory.name),
            place(each.entry.directory),
        )
        for each in in_order(comparison.others)
    ]
    used = sum(Table(columns[:-1], tuple(rows)).widths()) + 2 * len(columns)
    room = _REASON if width is None else max(_LEAST_REASON, min(_REASON, width - used))
    reasons = [_shortened(clean(each.why), room) for each in in_order(comparison.others)]
    whole = ((*row, reason) for row, reason in zip(rows, reasons, strict=True))
    return Table(columns, tuple(whole), "not ranked")


def failures_in_short(failures: Sequence[Other]) -> str:
    """How many runs failed, and the most frequent reasons."""
    counted = Counter(_shortened(clean(each.why), _REASON) for each in failures)
    reasons = [f"{why} (×{many})" if many > 1 else why for why, many in counted.most_common(_REASONS)]
    more = f"; {len(counted) - _REASONS} other reasons" if len(counted) > _REASONS else ""
    return f"{len(failures)} runs failed: {'; '.join(reasons)}{more}. --failed lists them"


def in_order(listed: Sequence[Other]) -> list[Other]:
    """The runs that are not ranked, failures first."""
    states = ("failed", "unreadable", "terminated", "interrupted", "running", "waiting", "done")
    return sorted(listed, key=lambda other: states.index(other.entry.state))


def place(directory: Path) -> str:
    """A run's directory, as short as it can be typed."""
    return clean(short_path(directory))


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _setting(value: Any) -> str:
    """As typed; a number drawn at random is shortened, the CSV and JSON files have all its digits."""
    text = shown(value)
    return f"{value:.6g}" if isinstance(value, float) and len(text) > 8 else text


def _is_number(rows: Sequence[Row], key: str) -> bool:
    values = [row.settings[key] for row in rows]
    return all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)


def _seeds(row: Row) -> str:
    seeds = sorted({str(run.settings.get("seed", "?")) for run in row.runs})
    seeds.sort(key=lambda seed: (len(seed), seed))
    return ",".join(seeds) if len(seeds) <= 5 else f"{seeds[0]}…{seeds[-1]}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else "< 1 s" if seconds < 1 else duration(seconds)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
