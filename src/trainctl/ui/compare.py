"""Compared runs on the screen: ranked tables, what they mean, runs that are not ranked, curves."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TextIO

from trainctl.analysis.ranking import Comparison, Row
from trainctl.ui.compare_plot import pictures
from trainctl.ui.compare_tables import NOTHING_RANKED, clean, failures_in_short, others, place, table
from trainctl.ui.screen import Screen

MOST_CURVES = 8
"""How many settings can be told apart in one picture of a terminal."""

_PLOT_WIDTH = 72
_MOST_PLOT_WIDTH = 100


def show(
    comparison: Comparison,
    stream: TextIO | None = None,
    mode: str = "auto",
    *,
    curves: bool | None = None,
    failed: bool = True,
) -> None:
    """Print to ``stream`` as ``display.mode`` says; several runs that failed in one line unless ``failed``.

    ``curves`` draws the runs' curves; None does so on a terminal for up to 8 settings.
    """
    screen = Screen(stream, mode)
    for group in comparison.groups:
        screen.line()
        screen.table(table(group), [_style(row) for row in group.rows])
        for finding in group.findings:
            screen.line(clean(finding), "cyan")
    failures = [] if failed else [each for each in comparison.others if each.entry.state == "failed"]
    if len(failures) > 1:
        comparison = replace(
            comparison, others=tuple(each for each in comparison.others if each not in failures)
        )
    if comparison.others:
        listed = others(comparison, screen.width)
        bad = ("failed", "unreadable")
        screen.line()
        screen.table(listed, ["red" if row[0] in bad else "yellow" for row in listed.rows])
    if len(failures) > 1:
        screen.line()
        screen.line(failures_in_short(failures), "red")
    if not comparison.groups:
        screen.line(NOTHING_RANKED, "yellow")
    elif (best := comparison.groups[0].rows[0]).rank is not None:
        screen.line(f"next: trainctl eval {shlex.quote(place(best.runs[0].directory))}", "dim")
    for note in comparison.notes:
        screen.line(clean(note), "yellow")
    if curves is None:
        rows = sum(len(group.rows) for group in comparison.groups) + len(comparison.others)
        curves = screen.mode == "rich" and rows <= MOST_CURVES
    if curves:
        _show_curves(comparison, screen)


def _style(row: Row) -> str:
    return "bold green" if row.rank == 1 else "red" if row.rank is None else ""


def _show_curves(comparison: Comparison, screen: Screen) -> None:
    width = min(screen.width or _PLOT_WIDTH, _MOST_PLOT_WIDTH)
    for picture in pictures(comparison, MOST_CURVES, width, letters=not screen.has_colours):
        screen.line()
        screen.line(picture.title, "bold")
        for pieces in picture.lines:
            screen.pieces(pieces)
