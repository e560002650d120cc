"""A page that needs nothing beside it: no network, no font, no other file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from trainctl.runs.printable import shown
from trainctl.ui.table import Column, Table

_HERE = Path(__file__).parent


def page(heading: str, name: str, body: Iterable[str], data: Sequence[str] = ()) -> str:
    """The whole page, with ``NAME.css`` and, where there is ``data`` for it, ``NAME.js``."""
    title = escape(heading)
    script = [*data, f"<script>\n{_asset(f'{name}.js')}</script>"] if data else []
    scripts = " script-src 'unsafe-inline';" if data else ""
    lines = "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src'
            f" 'unsafe-inline';{scripts} img-src data:\">",
            # Without an icon a browser asks the server of the page for one.
            '<link rel="icon" href="data:,">',
            f"<title>{title}</title>",
            f"<style>\n{_asset('page.css')}{_asset(f'{name}.css')}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{title}</h1>",
            *body,
            "</main>",
            *script,
            "</body>",
            "</html>",
            "",
        ]
    )
    return shown(lines)


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def section(title: str, body: Iterable[str], note: str = "", kind: str = "") -> Iterator[str]:
    """A heading, what is below it, and a note."""
    yield f"<section{css_class(kind)}><h2>{escape(title)}</h2>"
    yield from body
    if note:
        yield f'<p class="note">{escape(note)}</p>'
    yield "</section>"


def box(sentences: Sequence[str], kind: str = "") -> Iterator[str]:
    """Sentences in a box: plain, ``warn`` or ``bad``."""
    if sentences:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
        yield f'<ul class="{f"box {kind}".strip()}">{items}</ul>'


def table_html(table: Table, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The table from the HTML of its cells, in a box that scrolls."""
    title = escape(table.title)
    # What scrolls must be reachable by keyboard.
    yield f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">'
    yield f"<table><caption>{title}</caption>"
    if headings:
        yield f"<thead><tr>{''.join(headings)}</tr></thead>"
    yield "<tbody>"
    for cells in rows:
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def heading_cell(column: Column, inner: str = "") -> str:
    """A heading, ``inner`` being its HTML where it is more than the name."""
    if not column.name:
        return "<td></td>"
    kind = css_class("number" if column.right else "")
    return f'<th scope="col"{kind}>{inner or escape(column.name)}</th>'


def css_class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
