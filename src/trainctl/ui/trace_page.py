"""A traced step as one page that needs nothing beside it: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from trainctl.ui import trace as tables
from trainctl.ui.trace import NOTHING, Table

if TYPE_CHECKING:
    from trainctl.analysis.trace_report import Layer, Trace

_STYLE = """
:root {
  --ink: #1d2430; --faint: #5c6675; --paper: #ffffff; --panel: #f5f7fa; --line: #d9dfe7;
  --accent: #1f5fae; --bar: #b9d0ec; --warn: #8a4b00; --warn-paper: #fff3dd; --bad: #a3181d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e3e8ef; --faint: #9aa6b5; --paper: #12161c; --panel: #1a2029; --line: #2f3947;
    --accent: #7db4f5; --bar: #2b4a70; --warn: #f1b45b; --warn-paper: #33260f; --bad: #ff8a85;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 68rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; -webkit-text-size-adjust: 100%; }
h1 { margin: 0 0 .5rem; font-size: 1.4rem; line-height: 1.25; }
h2 { margin: 2rem 0 .4rem; font-size: 1.1rem; color: var(--accent); }
p.note { margin: .5rem 0 0; color: var(--faint); font-size: .875rem; max-width: 46rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
ul.findings { margin: 1rem 0 0; padding: .7rem 1rem .7rem 2rem; border-radius: .4rem;
  background: var(--panel); }
ul.findings.warn { background: var(--warn-paper); color: var(--warn); }
ul.findings.bad { background: var(--warn-paper); color: var(--bad); font-weight: 600; }
ul.findings li { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; white-space: nowrap; }
th { font-weight: 500; }
thead th { color: var(--faint); font-size: .8rem; }
.number { text-align: right; }
td.text { white-space: normal; min-width: 14rem; }
.mark { color: var(--warn); font-weight: 600; }
code, .name { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .92em; }
.bar { min-width: 6rem; width: 16rem; }
.bar span { display: block; height: .8rem; margin-top: .25rem; border-radius: .2rem; background: var(--bar); }
.tree { font-size: .9rem; }
.tree ul { list-style: none; margin: 0; padding: 0 0 0 .6rem; border-left: 1px solid var(--line); }
.tree > ul { padding: 0; border: 0; }
.tree li { padding-left: .5rem; }
.module { display: inline-flex; flex-wrap: wrap; gap: 0 .9rem; align-items: baseline; padding: .22rem 0;
  max-width: calc(100% - 1.2rem); vertical-align: top; }
li > .module { margin-left: 1.05rem; }
summary { cursor: pointer; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: .2rem; }
.class { font-weight: 600; }
.faint { color: var(--faint); }
@media (max-width: 40rem) {
  body { padding: .9rem .8rem 2rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .35rem; }
  th, td { padding-right: .7rem; }
  .bar { width: 7rem; min-width: 4rem; }
  tbody th { position: sticky; left: 0; background: var(--paper); }
}
"""


def render(trace: Trace) -> str:
    """The whole page."""
    title = escape(trace.title)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src'
            " 'unsafe-inline'; img-src data:\">",
            # Without an icon a browser asks the place of the page for one.
            '<link rel="icon" href="data:,">',
            f"<title>{title}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{title}</h1>",
            *_settings(trace),
            *_findings(trace),
            *_section(tables.batch(trace)),
            *_modules(trace),
            *_section(tables.parameters(trace)),
            *_section(tables.gradients(trace)),
            *_section(tables.loss(trace)),
            *_times(trace),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _settings(trace: Trace) -> Iterator[str]:
    yield "<dl>"
    for label, text in trace.settings:
        yield f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>"
    yield "</dl>"


def _findings(trace: Trace) -> Iterator[str]:
    kind = " bad" if trace.not_finite else " warn" if trace.findings else ""
    yield f'<ul class="findings{kind}">'
    for sentence in tables.findings(trace):
        yield f"<li>{escape(sentence)}</li>"
    yield "</ul>"


def _section(table: Table) -> Iterator[str]:
    yield f"<section><h2>{escape(table.title)}</h2>"
    yield from _table(table)
    if table.note:
        yield f'<p class="note">{escape(table.note)}</p>'
    yield "</section>"


def _table(table: Table, shares: Sequence[float] = ()) -> Iterator[str]:
    """A table whose first column names the rows; ``shares`` adds a bar a row."""
    title = escape(table.title)
    # What scrolls must be reachable by keyboard.
    yield f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">'
    yield f"<table><caption>{title}</caption>"
    if table.headed:
        headings = (
            f'<th scope="col"{_class("number" if column.right else "")}>{escape(column.name)}</th>'
            if column.name
            else "<td></td>"
            for column in table.columns
        )
        yield f"<thead><tr>{''.join(headings)}{'<td></td>' if shares else ''}</tr></thead>"
    yield "<tbody>"
    last = len(table.columns) - 1
    for index, row in enumerate(table.rows):
        filled = []
        for number, (cell, column) in enumerate(zip(row, table.columns, strict=True)):
            if number == 0:
                filled.append(f'<th scope="row" class="name">{escape(cell)}</th>')
                continue
            kind = "number" if column.right else ""
            if number == last and not column.name:
                kind = "mark" if table.marked else "text"
            filled.append(f"<td{_class(kind)}>{escape(cell)}</td>")
        if shares:
            share = f'<span style="width:{shares[index]:.1%}"></span>' if index < len(shares) else ""
            filled.append(f'<td class="bar" aria-hidden="true">{share}</td>')
        yield f"<tr>{''.join(filled)}</tr>"
    yield "</tbody></table></div>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _times(trace: Trace) -> Iterator[str]:
    if trace.timing is None:
        return
    table, timing = tables.times(trace), trace.timing
    longest = max(timing.phases.values(), default=0.0) or 1.0
    yield f"<section><h2>{escape(table.title)}</h2>"
    yield from _table(table, [seconds / longest for seconds in timing.phases.values()])
    yield f'<p class="note">{escape(table.note)}</p></section>'


def _modules(trace: Trace) -> Iterator[str]:
    """The modules as a tree that can be folded; one with modules inside is a <details>."""
    yield '<section class="tree"><h2>forward</h2>'
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
    if note := tables.modules_note(trace):
        yield f'<p class="note">{escape(note)}</p>'
    yield "</section>"


def _module(layer: Layer, trace: Trace) -> str:
    shape, extent = tables.outputs(layer)
    parts = [
        ("name", tables.module_name(layer)),
        ("class", layer.kind),
        ("name", shape if shape != NOTHING else ""),
        ("faint", extent if extent != NOTHING else ""),
        ("", f"{tables.count(layer)} parameters" if layer.parameters else ""),
        ("mark", ", ".join(tables.marks(layer, trace))),
    ]
    return "".join(f"<span{_class(kind)}>{escape(text)}</span>" for kind, text in parts if text)
