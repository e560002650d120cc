"""What ``eval`` prints: the values, then classes and confusions, or residuals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from trainctl.paths import short_path
from trainctl.runs.record import without_nan
from trainctl.training.display import number, visible
from trainctl.ui.screen import Screen
from trainctl.ui.table import Column, Table

if TYPE_CHECKING:
    from trainctl.inference.evaluate import Score
    from trainctl.inference.trained_run import Trained

_MOST_COLUMNS = 12
_MOST_CONFUSIONS = 10
_NONE = "-"
_MATRIX = "true class in rows, predicted in columns"


def show(trained: Trained, score: Score, stream: TextIO | None = None) -> None:
    """Print to ``stream``; in colours on a terminal, unless NO_COLOR is set."""
    screen = Screen(stream)
    screen.line(f"{short_path(trained.directory)}, {trained.checkpoint.name}", "bold cyan")
    for notice in (*trained.notices, *score.notices):
        screen.line(notice, "yellow")
    screen.line(_subject(score))
    screen.pairs([(name, number(value)) for name, value in visible(score.values).items()])
    if score.differing:
        found = ", ".join(f"{name} {value}" for name, value in score.differing.items())
        here = ", ".join(f"{score.values.get(name)}" for name in score.differing)
        screen.line(f"differs: the run recorded {found}; here {here}", "red" if score.is_off else "yellow")
    elif score.recorded:
        screen.line("the same as recorded in the run, to the last digit", "green")
    for table in _tables(score):
        screen.line()
        diagonal = range(len(table.rows)) if table.title == _MATRIX else ()
        screen.table(table, marks={(row, row + 1): "bold green" for row in diagonal}, indent=0)


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
        "by_target": score.by_target,
        "classes": [vars(row) for row in score.classes],
        "confusion": score.confusion,
        "residuals": [vars(row) for row in score.residuals],
        "worst": [{**vars(row), "residual": row.residual} for row in score.worst],
    }
    return json.dumps(without_nan(content), indent=2)


def _subject(score: Score) -> str:
    many = f"{score.samples:,} samples"
    if score.split == "all":
        return f"{score.dataset}: all {many}"
    return f"{score.dataset}: {score.split}, {many} of {score.available:,}"


def _tables(score: Score) -> Iterator[Table]:
    if score.classes:
        names = {"precision": "precision", "recall": "recall", "f1": "F1", "iou": "IoU"}
        shown = [name for name in names if hasattr(score.classes[0], name)]
        classes = [
            (row.name, *(_share(getattr(row, name)) for name in shown), f"{row.support:,}")
            for row in score.classes
        ]
        yield _table("", ("class", *(names[name] for name in shown), score.counted), classes)
    if score.confusion:
        yield _confusion(score)
    if score.by_target:
        metrics = tuple(next(iter(score.by_target.values())))
        targets = [
            (target, *(number(values[name]) for name in metrics))
            for target, values in score.by_target.items()
        ]
        yield _table("by target", ("target", *metrics), targets)
    if score.residuals:
        several = len(score.residuals) > 1
        quantiles = [f"{quantile:.0%}" for quantile in score.residuals[0].quantiles]
        residuals = [
            (
                (row.name or f"output {row.output}") if several else "",
                *map(number, (row.mean, row.std)),
                _share(row.r2),
                *map(number, row.quantiles.values()),
            )
            for row in score.residuals
        ]
        headings = ("residual", "mean", "std", "R2", *quantiles)
        yield _table("residuals: target minus prediction", headings, residuals)
        output = ("output",) if several else ()
        worst = [
            (
                str(row.sample),
                *([row.name or str(row.output)] if several else []),
                *map(number, (row.target, row.prediction, row.residual)),
            )
            for row in score.worst
        ]
        yield _table("largest residuals", ("sample", *output, "target", "prediction", "residual"), worst)


def _confusion(score: Score) -> Table:
    """The matrix where it has room, else the most frequent confusions."""
    names = [row.name for row in score.classes]
    if len(names) <= _MOST_COLUMNS:
        rows = [
            (name, *(str(count) if count else "." for count in counts))
            for name, counts in zip(names, score.confusion, strict=True)
        ]
        return _table(_MATRIX, ("", *names), rows)
    pairs = [
        (count, names[true], names[predicted])
        for true, counts in enumerate(score.confusion)
        for predicted, count in enumerate(counts)
        if count and true != predicted
    ]
    pairs.sort(key=lambda pair: -pair[0])
    shown = [(true, predicted, f"{count:,}") for count, true, predicted in pairs[:_MOST_CONFUSIONS]]
    more = len(pairs) - len(shown)
    title = "most frequent confusions" + (f" ({more} more with --json)" if more else "")
    return _table(title, ("true", "predicted", score.counted), shown)


def _table(title: str, headings: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    """A table whose first column is text and whose others are numbers."""
    columns = tuple(Column(name, right=number > 0) for number, name in enumerate(headings))
    return Table(columns, tuple(rows), title)


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"
