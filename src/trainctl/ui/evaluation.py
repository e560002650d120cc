"""What ``eval`` prints: the values, then classes and confusions, or residuals."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from trainctl.paths import short_path
from trainctl.training.display import number, visible

if TYPE_CHECKING:
    from trainctl.inference.evaluate import Score
    from trainctl.inference.trained_run import Trained

_MOST_COLUMNS = 12
_MOST_CONFUSIONS = 10
_NONE = "-"
Table = tuple[str, Sequence[str], list[Sequence[str]]]


def show(trained: Trained, score: Score, stream: TextIO | None = None) -> None:
    """Print to ``stream``; in colours on a terminal, unless NO_COLOR is set."""
    stream = stream or sys.stdout
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        _show_rich(trained, score, stream)
    else:
        _show_plain(trained, score, stream)


def as_json(trained: Trained, score: Score) -> str:
    """All of it as one JSON object; what is not finite is text."""
    content = {
        "version": 1,
        "run": str(trained.directory),
        "checkpoint": trained.checkpoint.name,
        "step": trained.step,
        "dataset": score.dataset,
        "split": score.split,
        "samples": score.samples,
        "values": score.values,
        "recorded": score.recorded,
        "classes": [vars(row) for row in score.classes],
        "confusion": score.confusion,
        "residuals": [vars(row) for row in score.residuals],
        "worst": [{**vars(row), "residual": row.residual} for row in score.worst],
    }
    return json.dumps(_finite(content), indent=2)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and value - value != 0 else value


# ------------------------------------------------------------------ what is said


def _title(trained: Trained, score: Score) -> str:
    return f"{short_path(trained.directory)}, {trained.checkpoint.name}"


def _subject(score: Score) -> str:
    many = f"{score.samples:,} samples"
    if score.split == "all":
        return f"{score.dataset}: all {many}"
    return f"{score.dataset}: {score.split}, {many} of {score.available:,}"


def _notices(trained: Trained, score: Score) -> Iterator[str]:
    yield from trained.notices
    yield from score.notices


def _agreement(score: Score) -> tuple[str, bool] | None:
    """Whether the run has recorded the same, and whether that is so."""
    if not score.recorded:
        return None
    # What is not finite stands in run.json as text.
    here = _finite(dict(score.values))
    differing = [name for name, value in score.recorded.items() if here.get(name) != value]
    if not differing:
        return "the same as recorded in the run, to the last digit", True
    said = ", ".join(f"{name} {score.recorded[name]}" for name in differing)
    return f"the run has recorded {said}", False


def _tables(score: Score) -> Iterator[Table]:
    if score.classes:
        rows = [
            (row.name, _share(row.precision), _share(row.recall), _share(row.f1), f"{row.support:,}")
            for row in score.classes
        ]
        yield "", ("class", "precision", "recall", "F1", "samples"), list(rows)
        yield _confusion(score)
    if score.residuals:
        several = len(score.residuals) > 1
        quantiles = [f"{quantile:.0%}" for quantile in score.residuals[0].quantiles]
        headings = ["residual", "mean", "std", "R2", *quantiles]
        body = [
            [
                f"output {row.output}" if several else "",
                number(row.mean),
                number(row.std),
                _share(row.r2),
                *map(number, row.quantiles.values()),
            ]
            for row in score.residuals
        ]
        yield "residuals: target minus prediction", headings, list(body)
        yield (
            "largest residuals",
            ["sample", *(["output"] if several else []), "target", "prediction", "residual"],
            [
                [
                    str(row.sample),
                    *([str(row.output)] if several else []),
                    number(row.target),
                    number(row.prediction),
                    number(row.residual),
                ]
                for row in score.worst
            ],
        )


def _confusion(score: Score) -> Table:
    """The matrix where it has room, else the most frequent confusions."""
    names = [row.name for row in score.classes]
    if len(names) <= _MOST_COLUMNS:
        rows = [
            (name, *(str(count) if count else "." for count in counts))
            for name, counts in zip(names, score.confusion, strict=True)
        ]
        return "true class in rows, predicted in columns", ("", *names), list(rows)
    pairs = [
        (count, names[true], names[predicted])
        for true, counts in enumerate(score.confusion)
        for predicted, count in enumerate(counts)
        if count and true != predicted
    ]
    pairs.sort(key=lambda pair: -pair[0])
    rows_of_pairs = [(true, predicted, f"{count:,}") for count, true, predicted in pairs[:_MOST_CONFUSIONS]]
    more = len(pairs) - len(rows_of_pairs)
    title = "most frequent confusions" + (f", {more} more: --json has the matrix" if more else "")
    return title, ("true", "predicted", "samples"), list(rows_of_pairs)


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"


# ------------------------------------------------------------------ how it looks


def _show_plain(trained: Trained, score: Score, stream: TextIO) -> None:
    print(_title(trained, score), file=stream)
    for notice in _notices(trained, score):
        print(notice, file=stream)
    print(_subject(score), file=stream)
    for name, value in visible(score.values).items():
        print(f"  {name} {value}", file=stream)
    if (agreement := _agreement(score)) is not None:
        print(agreement[0], file=stream)
    for title, headings, rows in _tables(score):
        print(f"\n{title}" if title else "", file=stream)
        widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
        for row in (headings, *rows):
            cells = [
                f"{cell:<{width}}" if place == 0 else f"{cell:>{width}}"
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("  ".join(cells).rstrip(), file=stream)


def _show_rich(trained: Trained, score: Score, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    console.print(Text(_title(trained, score), style="bold cyan"))
    for notice in _notices(trained, score):
        console.print(Text(notice, style="yellow"))
    console.print(Text(_subject(score)))
    grid = Grid.grid(padding=(0, 2))
    for name, value in visible(score.values).items():
        grid.add_row(Text(f"  {name}", style="dim"), Text(str(value), style="bold"))
    console.print(grid)
    if (agreement := _agreement(score)) is not None:
        console.print(Text(agreement[0], style="green" if agreement[1] else "yellow"))
    for title, headings, rows in _tables(score):
        console.print()
        if title:
            console.print(Text(title, style="dim"))
        table = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for place, heading in enumerate(headings):
            table.add_column(Text(heading), justify="right" if place else "left", overflow="fold")
        for place, row in enumerate(rows):
            cells = [Text(cell) for cell in row]
            if score.confusion and title.startswith("true class"):
                cells[place + 1].stylize("bold green")
            table.add_row(*cells)
        console.print(table)
