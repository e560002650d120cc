"""Compared runs as one page that needs nothing beside it: a table to sort, curves to point at."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from trainctl.analysis.curves import Curves, Points, read_curves
from trainctl.analysis.discovery import Entry
from trainctl.analysis.ranking import ABSENT, Comparison, Group, Row
from trainctl.ui.compare import Table, clean, in_order, label, others, place, table, title

_HERE = Path(__file__).parent
# What a browser draws without effort, over all runs; and per curve what is enough, and what is needed.
_ALL_POINTS = 150_000
_MOST, _LEAST = 600, 40


def render(comparison: Comparison) -> str:
    """The whole page."""
    runs = [run for group in comparison.groups for row in group.rows for run in row.runs]
    runs += [other.entry for other in comparison.others]
    heading = f"{len(runs)} run{'s' if len(runs) != 1 else ''} compared"
    curves = list(_series(comparison, max(_LEAST, min(_MOST, _ALL_POINTS // (3 * max(1, len(runs)))))))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src'
            " 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">",
            # Without an icon a browser asks the place of the page for one.
            '<link rel="icon" href="data:,">',
            f"<title>{escape(heading)}</title>",
            f"<style>\n{_asset('compare_page.css')}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{escape(heading)}</h1>",
            *_list(comparison.notes, "notes"),
            *_tables(comparison),
            *(_CHART if any(run["train"] or run["val"] for each in curves for run in each["runs"]) else ()),
            "</main>",
            f'<script type="application/json" id="curves">{_data(curves)}</script>',
            f"<script>\n{_asset('compare_page.js')}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


_CHART = (
    '<section id="chart"><h2>curves</h2>',
    '<div class="controls">',
    '<label>show <select id="what"></select></label>',
    '<label><input type="checkbox" id="log"> logarithmic</label>',
    '<span class="buttons"><button type="button" data-show="best">best 8</button>'
    '<button type="button" data-show="all">all</button>'
    '<button type="button" data-show="none">none</button></span>',
    "</div>",
    '<div class="plot"><svg id="plot" role="img" aria-label="curves of the chosen runs"></svg>'
    '<div id="tip" hidden></div></div>',
    '<p class="note">A thin line is the training loss of every step, smoothed over about a fiftieth of the '
    "run; a thick one is the validation data. Long curves keep the lowest and the highest value of each "
    "stretch. The boxes in the table choose what is drawn.</p></section>",
)


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _list(sentences: Sequence[str], kind: str) -> Iterator[str]:
    if sentences:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
        yield f'<ul class="{kind}">{items}</ul>'


def _tables(comparison: Comparison) -> Iterator[str]:
    number = 0
    for group in comparison.groups:
        shown = table(group)
        keys = [_sort_keys(row, shown, group) for row in group.rows]
        yield f"<section><h2>{escape(title(group))}</h2>"
        yield from _table(title(group), shown, keys, number)
        yield from _list(group.findings, "findings")
        yield "</section>"
        number += len(group.rows)
    if comparison.others:
        listed = others(comparison)
        yield "<section><h2>not ranked</h2>"
        yield from _table("not ranked", listed, [list(row) for row in listed.rows], number)
        yield "</section>"
    if not comparison.groups:
        yield "<p>No run has ended with an evaluation on validation data: there is nothing to rank.</p>"


def _sort_keys(row: Row, shown: Table, group: Group) -> list[Any]:
    """What each cell is sorted by: the number behind the text, where there is one."""
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


def _table(name: str, shown: Table, keys: Sequence[Sequence[Any]], first: int) -> Iterator[str]:
    """A table with a box a row that shows its curves; row ``first`` + i has curves of that number."""
    # What scrolls must be reachable by keyboard.
    yield f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">'
    yield f'<table class="sortable"><caption>{escape(name)}</caption>'
    headings = "".join(
        f'<th scope="col"{_right(column.right)}><button type="button">{escape(column.name)}</button></th>'
        for column in shown.columns
    )
    yield f"<thead><tr><td></td>{headings}</tr></thead><tbody>"
    for number, (row, sort) in enumerate(zip(shown.rows, keys, strict=True), start=first):
        cells = "".join(
            f'<td{_right(column.right)} data-sort="{escape(_sortable(key))}">{escape(cell)}</td>'
            for cell, key, column in zip(row, sort, shown.columns, strict=True)
        )
        box = (
            f'<label class="swatch"><input type="checkbox" data-curve="{number}" '
            f'aria-label="show the curves"><span></span></label>'
        )
        yield f'<tr data-curve="{number}"><td>{box}</td>{cells}</tr>'
    yield "</tbody></table></div>"


def _sortable(key: Any) -> str:
    if isinstance(key, bool):
        return str(key)
    return repr(key) if isinstance(key, int | float) else str(key)


def _right(right: bool) -> str:
    return ' class="number"' if right else ""


def _series(comparison: Comparison, most: int) -> Iterator[dict[str, Any]]:
    """What is drawn of each row of each table, in their order."""
    for group in comparison.groups:
        for row in group.rows:
            yield {"label": label(row), "ranked": True, "runs": [_drawn(run, most) for run in row.runs]}
    for other in in_order(comparison.others):
        name = clean(other.label) or place(other.entry.directory)
        yield {"label": name, "ranked": False, "runs": [_drawn(other.entry, most)]}


def _drawn(run: Entry, most: int) -> dict[str, Any]:
    curves = read_curves(run.directory).to_draw(most) if run.has_curves else Curves()
    return {
        "seed": str(run.settings.get("seed", "")),
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
