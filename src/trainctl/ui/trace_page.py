"""A traced step as a page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from trainctl.ui import trace as tables
from trainctl.ui.page import box, css_class, heading_cell, page, section, table_html
from trainctl.ui.table import NOTHING, Table

if TYPE_CHECKING:
    from trainctl.analysis.trace_report import Layer, Trace


def render(trace: Trace) -> str:
    """The whole page."""
    kind = "bad" if trace.not_finite else "warn" if trace.findings else ""
    body = [
        *_settings(trace),
        *box(tables.findings(trace), kind),
        *_section(tables.batch(trace)),
        *section("forward", _modules(trace), tables.modules_note(trace), "tree"),
        *_section(tables.parameters(trace)),
        *_section(tables.gradients(trace)),
        *_section(tables.loss(trace)),
    ]
    if trace.timing is not None:
        seconds = trace.timing.phases.values()
        longest = max(seconds, default=0.0) or 1.0
        body += _section(tables.times(trace), [each / longest for each in seconds])
    return page(trace.title, "trace_page", body)


def _settings(trace: Trace) -> Iterator[str]:
    yield "<dl>"
    for label, text in trace.settings:
        yield f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>"
    yield "</dl>"


def _section(table: Table, shares: Sequence[float] = ()) -> Iterator[str]:
    """A table whose first column names the rows; ``shares`` adds a bar to as many of them."""
    headings = [heading_cell(column) for column in table.columns] if table.has_headings else []
    if shares:
        headings.append("<td></td>")
    rows = [_cells(table, row) for row in table.rows]
    for index, cells in enumerate(rows if shares else ()):
        bar = f'<span style="width:{shares[index]:.1%}"></span>' if index < len(shares) else ""
        cells.append(f'<td class="bar" aria-hidden="true">{bar}</td>')
    yield from section(table.title, table_html(table, headings, rows), table.note)


def _cells(table: Table, row: Sequence[str]) -> list[str]:
    cells = [f'<th scope="row" class="name">{escape(row[0])}</th>']
    last = len(row) - 1
    for number, (cell, column) in enumerate(zip(row[1:], table.columns[1:], strict=True), start=1):
        kind = "number" if column.right else ""
        if number == last and not column.name:
            kind = "mark" if column.style else "text"
        cells.append(f"<td{css_class(kind)}>{escape(cell)}</td>")
    return cells


def _modules(trace: Trace) -> Iterator[str]:
    """The modules as a tree that can be folded; one with modules inside is a <details>."""
    yield "<ul>"
    layers = trace.layers
    for number, layer in enumerate(layers):
        after = layers[number + 1].depth if number + 1 < len(layers) else 0
        line = f'<span class="module">{_module(layer, trace)}</span>'
        if after > layer.depth:
            yield f"<li><details open><summary>{line}</summary><ul>"
        else:
            yield f"<li>{line}</li>"
            yield "</ul></details></li>" * (layer.depth - after)
    yield "</ul>"


def _module(layer: Layer, trace: Trace) -> str:
    shape, extent = tables.outputs(layer)
    parts = [
        ("name", tables.module_name(layer)),
        ("class", layer.kind),
        ("name", shape if shape != NOTHING else ""),
        ("faint", extent if extent != NOTHING else ""),
        ("", f"{tables.count(layer)} parameters" if layer.parameters else ""),
        ("mark", ", ".join(tables.remarks(layer, trace))),
    ]
    return "".join(f"<span{css_class(kind)}>{escape(text)}</span>" for kind, text in parts if text)
