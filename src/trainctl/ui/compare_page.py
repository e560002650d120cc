"""Compared runs as a page that needs nothing beside it: tables to sort, curves to point at."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from trainctl.analysis.curves import Curves, Points, read_curves
from trainctl.analysis.discovery import Entry
from trainctl.analysis.ranking import ABSENT, Comparison, Group, Row
from trainctl.ui.compare_tables import NOTHING_RANKED, in_order, label, other_label, others, place, table
from trainctl.ui.page import box, css_class, heading_cell, page, section, table_html
from trainctl.ui.table import Table

# What a browser draws without effort, over all runs; and per curve the most and the least that looks right.
_ALL_POINTS = 150_000
_MOST, _LEAST = 600, 40
_CHART = (
    '<div class="controls">',
    '<label>show <select id="what"></select></label>',
    '<label><input type="checkbox" id="log"> logarithmic</label>',
    '<span class="buttons"><button type="button" data-show="best">best 8</button>'
    '<button type="button" data-show="all">all</button>'
    '<button type="button" data-show="none">none</button></span>',
    "</div>",
    '<div class="plot"><svg id="plot" role="img" aria-label="curves of the chosen runs"></svg>'
    '<div id="tip" hidden></div></div>',
)
_CHART_NOTE = (
    "Thin lines: training loss of every step, smoothed over about a fiftieth of the run. Thick lines: "
    "validation. Long curves are thinned; the lowest and the highest value of each part are kept. The boxes "
    "in the tables choose what is drawn."
)


def render(comparison: Comparison) -> str:
    """The whole page."""
    runs = [run for group in comparison.groups for row in group.rows for run in row.runs]
    runs += [other.entry for other in comparison.others]
    heading = f"{len(runs)} run{'s' if len(runs) != 1 else ''} compared"
    curves = list(_series(comparison, max(_LEAST, min(_MOST, _ALL_POINTS // (3 * max(1, len(runs)))))))
    body = [*box(comparison.notes, "warn"), *_tables(comparison)]
    if any(run["train"] or run["val"] for each in curves for run in each["runs"]):
        body += section("curves", _CHART, _CHART_NOTE)
    data = f'<script type="application/json" id="curves">{_data(curves)}</script>'
    return page(heading, "compare_page", body, [data])


def _tables(comparison: Comparison) -> Iterator[str]:
    first = 0
    for group in comparison.groups:
        shown = table(group)
        keys = [_sort_keys(row, shown, group) for row in group.rows]
        yield from section(shown.title, [*_table(shown, keys, first), *box(group.findings)])
        first += len(group.rows)
    if comparison.others:
        listed = others(comparison)
        yield from section(listed.title, _table(listed, listed.rows, first))
    if not comparison.groups:
        yield f"<p>{NOTHING_RANKED}</p>"


def _sort_keys(row: Row, shown: Table, group: Group) -> list[Any]:
    """What each cell is sorted by: its number where it has one."""
    numbers = {
        group.monitor.name: row.mean if math.isfinite(row.mean) else "",
        "#": row.rank or "",
        "n": len(row.runs),
        "time": row.seconds if row.seconds is not None else "",
        "steps": row.runs[0].step or "",
        "parameters": row.runs[0].parameters or "",
    }
    settings = ["" if value is ABSENT else value for value in row.settings.values()]
    first = 1 + len(settings)
    return [
        row.rank or "",
        *settings,
        *(numbers.get(column.name, "") for column in shown.columns[first:-1]),
        place(row.runs[0].directory),
    ]


def _table(shown: Table, keys: Sequence[Sequence[Any]], first: int) -> Iterator[str]:
    """A table that sorts, with a box a row that shows its curves: those of number ``first`` and up."""
    headings = [
        heading_cell(column, f'<button type="button">{escape(column.name)}</button>')
        for column in shown.columns
    ]
    rows = [
        [
            f'<td><label class="swatch"><input type="checkbox" data-curve="{number}" '
            'aria-label="show the curves"><span></span></label></td>',
            *(
                f'<td{css_class("number" if column.right else "")} data-sort="{escape(_sortable(key))}">'
                f"{escape(cell)}</td>"
                for cell, key, column in zip(row, sort, shown.columns, strict=True)
            ),
        ]
        for number, (row, sort) in enumerate(zip(shown.rows, keys, strict=True), start=first)
    ]
    yield from table_html(shown, ["<td></td>", *headings], rows)


def _sortable(key: Any) -> str:
    if isinstance(key, bool):
        return str(key)
    return repr(key) if isinstance(key, int | float) else str(key)


def _series(comparison: Comparison, most: int) -> Iterator[dict[str, Any]]:
    """The curves of each row of each table, in their order."""
    for group in comparison.groups:
        for row in group.rows:
            yield {"label": label(row), "ranked": True, "runs": [_drawn(run, most) for run in row.runs]}
    for other in in_order(comparison.others):
        yield {"label": other_label(other), "ranked": False, "runs": [_drawn(other.entry, most)]}


def _drawn(run: Entry, most: int) -> dict[str, Any]:
    curves = read_curves(run.directory).to_draw(most) if run.has_curves else Curves()
    fold = run.settings.get("dataset.fold")
    return {
        "seed": f"{run.settings.get('seed', '')}" + ("" if fold is None else f", fold {fold}"),
        "damaged": curves.damaged,
        "train": _pair(curves.train),
        "val": {name: _pair(points) for name, points in curves.val.items() if len(points) > 1},
    }


def _pair(points: Points) -> list[list[float]]:
    """Steps and values apart, to five digits: a third of the size."""
    if not points:
        return []
    return [[step for step, _ in points], [float(f"{value:.5g}") for _, value in points]]


def _data(curves: list[dict[str, Any]]) -> str:
    """As JSON in which nothing can end the script that holds it."""
    return json.dumps(curves, separators=(",", ":")).replace("<", "\\u003c")
