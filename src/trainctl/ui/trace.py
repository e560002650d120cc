"""A traced step as tables: for a terminal, for a pipe, and for the page that ``trace_page`` writes."""

from __future__ import annotations

import math
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from trainctl.analysis.trace_report import Layer, Parameter, Trace, Values

NOTHING = "–"
_NOTE_WIDTH = 100


@dataclass(frozen=True)
class Column:
    """A column's heading and whether it holds numbers; a narrow terminal leaves the most expendable out."""

    name: str
    right: bool = False
    expendable: int = 0


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the last column of ``marked`` ones says what not to overlook."""

    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: bool = False

    def without(self, number: int) -> Table:
        """The table less one column."""
        columns, rows = self.columns, self.rows
        return replace(
            self,
            columns=columns[:number] + columns[number + 1 :],
            rows=tuple(row[:number] + row[number + 1 :] for row in rows),
            marked=self.marked and number < len(columns) - 1,
        )

    @property
    def headed(self) -> bool:
        return any(column.name for column in self.columns)


def tables(trace: Trace, *, guides: bool = False) -> list[Table]:
    """Everything but title and findings, in the order of the step."""
    found = [batch(trace), modules(trace, guides=guides), parameters(trace), gradients(trace), loss(trace)]
    return found if trace.timing is None else [*found, times(trace)]


def batch(trace: Trace) -> Table:
    """What goes in."""
    columns = (Column(""), Column("shape"), Column("type"), Column("range"), Column(""))
    rows = tuple(
        (name, shape(each), each.dtype, extent(each), not_finite(each))
        for name, each in (("inputs", trace.inputs), ("targets", trace.targets))
    )
    note = "the first of the first epoch"
    if trace.accumulate > 1:
        note += f": {trace.accumulate} batches, whose gradients make one step"
    return _marked("batch", note, columns, rows)


def modules(trace: Trace, *, guides: bool = False) -> Table:
    """The model's modules, indented, or joined by lines with ``guides``."""
    columns = (
        Column("module"),
        Column("class"),
        Column("output"),
        Column("range", expendable=1),
        Column("parameters", right=True),
        Column(""),
    )
    starts = _guides(trace.layers) if guides else ["  " * layer.depth for layer in trace.layers]
    rows = tuple(
        (
            start + module_name(layer),
            layer.kind,
            *outputs(layer),
            count(layer),
            ", ".join(marks(layer, trace)),
        )
        for start, layer in zip(starts, trace.layers, strict=True)
    )
    return _marked("forward", modules_note(trace), columns, rows)


def modules_note(trace: Trace) -> str:
    """What the outputs are of."""
    calls = trace.layers[0].calls
    return f"the outputs of {calls} calls, with the shape of the first" if calls > 1 else ""


def module_name(layer: Layer) -> str:
    return layer.name.rpartition(".")[2] or "model"


def outputs(layer: Layer) -> tuple[str, str]:
    """A module's outputs: their shapes, with the type where it is not float32, and their range."""
    if not layer.outputs:
        return NOTHING, NOTHING
    kinds = {each.dtype for each in layer.outputs}
    kind = "" if kinds == {"float32"} else f" {'/'.join(sorted(kinds))}"
    return " + ".join(map(shape, layer.outputs)) + kind, extent(reduce(add, layer.outputs))


def count(layer: Layer) -> str:
    return f"{layer.parameters:,}" if layer.parameters else NOTHING


def marks(layer: Layer, trace: Trace) -> Iterator[str]:
    """What a reader should not overlook of a module."""
    usual = trace.layers[0].calls
    own = any(parameter.name.rpartition(".")[0] == layer.name for parameter in trace.parameters)
    if bad := sum(each.not_finite for each in layer.outputs):
        yield f"{bad:,} not finite"
    if layer.calls not in (0, usual):
        yield f"called {layer.calls} times"
    if own and not layer.calls and usual:
        yield "not called"
    frozen = layer.parameters - layer.trainable
    if frozen:
        yield "frozen" if not layer.trainable else f"{frozen:,} frozen"


def parameters(trace: Trace) -> Table:
    """What the step did to each parameter."""
    clips = trace.clip_norm is not None
    columns = (
        Column("parameter"),
        Column("shape", expendable=2),
        Column("before", right=True),
        Column("after", right=True, expendable=1),
        Column("gradient", right=True),
        *([Column("clipped", right=True)] if clips else []),
        Column("zeros", right=True, expendable=3),
        Column("update", right=True),
        Column("relative", right=True),
        Column(""),
    )
    rows = tuple(_parameter(each, trace) for each in trace.parameters)
    clipped = " clipped: as the optimizer got it." if clips else ""
    note = (
        "Euclidean norms. before, after: of the value. gradient: after backward."
        f"{clipped} update: of after − before. relative: update / before."
        " zeros: entries of the gradient that are 0."
    )
    return _marked("backward and step", note, columns, rows)


def _marked(title: str, note: str, columns: tuple[Column, ...], rows: tuple[tuple[str, ...], ...]) -> Table:
    """A table whose last column is of marks, or is left out where there is none."""
    table = Table(title, note, columns, rows, marked=True)
    return table if any(row[-1] for row in rows) else table.without(len(columns) - 1)


def _parameter(each: Parameter, trace: Trace) -> tuple[str, ...]:
    has, clips = each.gradient is not None, trace.clip_norm is not None
    # Where no step was taken, that goes for every parameter.
    usual = () if trace.refused is None else ("no gradient", "no update")
    return (
        each.name,
        str(each.shape),
        norm(each.before),
        norm(each.after),
        norm(each.gradient),
        *([norm(each.clipped)] if clips else []),
        f"{each.zeros / max(1, each.size):.0%}" if has else NOTHING,
        norm(each.update),
        norm(each.relative),
        ", ".join(mark for mark in each.marks if mark not in usual),
    )


def gradients(trace: Trace) -> Table:
    """The norm of all gradients, whether they were clipped, what ``zero_grad`` did."""
    rows = [("all gradients", f"norm {norm(trace.gradient_norm)}")]
    if trace.gradient_norm is None:
        why = "autograd computed no gradient" if trace.refused is None else "the step ended before backward"
        rows = [("all gradients", f"none: {why}")]
    if trace.clip_norm is not None and trace.gradient_norm is not None:
        rows.append(("clip_norm", _clipping(trace, trace.gradient_norm, trace.clip_norm)))
    rows.append(("zero_grad", _clearing(trace)))
    return Table("gradients", "", (Column(""), Column("")), tuple(rows))


def _clipping(trace: Trace, before: float, most: float) -> str:
    if trace.clipped_norm is None:
        return f"{most:g}: the optimizer was not asked to step"
    if before <= most:
        return f"{most:g}: the norm is not above it, nothing was clipped"
    return f"{most:g}: all gradients were scaled together, to the norm {norm(trace.clipped_norm)}"


def _clearing(trace: Trace) -> str:
    if trace.refused is not None:
        return f"no step was taken; {trace.to_clear} parameters have a gradient now"
    if not trace.clears:
        left = "the loop clears gradients itself"
        if trace.to_clear:
            left = f"{trace.to_clear} gradients are left"
        elif trace.gradient_norm is None:
            left = "there is nothing to clear"
        return f"the step does not call it: {left}"
    done = (
        f"cleared the gradients of {trace.cleared} parameters"
        if trace.cleared
        else "had nothing to clear: before the first step no parameter has a gradient"
    )
    once = "called once for all batches, " if trace.accumulate > 1 else ""
    return f"{once}{done}; the next one clears the {trace.to_clear} that this step left"


def loss(trace: Trace) -> Table:
    """The loss of the batch before the step and after it."""
    logged = ", as training logs it for step 1" if trace.refused is None else ""
    rows = [("before", _digits(trace.loss, 7), f"of this batch{logged}")]
    if trace.loss_after is None:
        rows.append(("after", NOTHING, "no step was taken"))
    else:
        change = trace.loss_after - trace.loss
        shown = f"{change:+#.4g}: " if math.isfinite(change) and change else ""
        what = "the same batch and random numbers (dropout masks) again, on a copy: only the update differs"
        rows.append(("after", _digits(trace.loss_after, 7), f"{shown}{what}"))
    return Table("loss", "", (Column(""), Column("", right=True), Column("")), tuple(rows))


def times(trace: Trace) -> Table:
    """How long the parts of a step take."""
    timing = trace.timing
    assert timing is not None
    names = {"step": "step, clipping included"} if timing.clipping else {}
    rows = [
        (names.get(phase, phase), duration(seconds), f"{seconds / timing.total:.0%}" if timing.total else "")
        for phase, seconds in timing.phases.items()
    ]
    rows.append(("a step", duration(timing.total), ""))
    what = f"the median of {timing.steps} more steps" if timing.steps > 1 else "one more step"
    waited = ", waiting for the device after each part" if timing.synchronized else ""
    note = (
        f"{what} on a copy{waited}; the traced one took {duration(timing.first)}"
        " with what is done only once and with the measuring of all this"
    )
    return Table(
        "time", note, (Column(""), Column("time", right=True), Column("share", right=True)), tuple(rows)
    )


def findings(trace: Trace) -> tuple[str, ...]:
    """What is remarkable, or that nothing is."""
    return trace.findings or ("every parameter has a gradient and was updated, and all of it is finite",)


# ------------------------------------------------------------------- values


def shape(values: Values) -> str:
    return str(values.shape)


def extent(values: Values) -> str:
    """The range of the finite values: whole numbers as they are."""
    if values.low is None or values.high is None:
        return NOTHING
    low, high = (
        f"{each:.0f}" if "int" in values.dtype or values.dtype == "bool" else f"{each:.4g}"
        for each in (values.low, values.high)
    )
    return f"{low} to {high}"


def not_finite(values: Values) -> str:
    return f"{values.not_finite:,} not finite" if values.not_finite else ""


def norm(value: float | None) -> str:
    """Four significant digits; a value that is exactly zero as ``0``."""
    if value is None:
        return NOTHING
    return _digits(value, 4) if value else "0"


def duration(seconds: float) -> str:
    """``23 µs``, ``1.51 ms``, ``2.3 s``: three significant digits."""
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 999.5:
            return f"{_digits(seconds * factor, 3)} {unit}"
    return f"{_digits(seconds, 3)} s"


def _digits(value: float, count: int) -> str:
    """``count`` significant digits, zeros at the end included."""
    return f"{value:#.{count}g}".removesuffix(".")


def _guides(layers: Sequence[Layer]) -> list[str]:
    """What stands before each module's name to join it with the one it is in."""
    found, open_below = [], [False] * (max(layer.depth for layer in layers) + 2)
    for layer in reversed(layers):
        start = "".join("│  " if open_below[depth] else "   " for depth in range(1, layer.depth))
        if layer.depth:
            start += "├─ " if open_below[layer.depth] else "└─ "
        found.append(start)
        open_below[layer.depth] = True
        open_below[layer.depth + 1 :] = [False] * (len(open_below) - layer.depth - 1)
    return found[::-1]


# ------------------------------------------------------------------- showing


def show(trace: Trace, mode: str = "auto", stream: TextIO | None = None) -> None:
    """Print to ``stream``, as ``display.mode`` says; ``auto`` is rich on a terminal and plain elsewhere."""
    stream = stream or sys.stdout
    if mode == "auto":
        mode = "rich" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"
    if mode == "plain":
        _show_plain(trace, stream)
    elif mode == "rich":
        _show_rich(trace, stream)


def _show_plain(trace: Trace, stream: TextIO) -> None:
    print(trace.title, file=stream)
    width = max(len(label) for label, _ in trace.settings)
    for label, text in trace.settings:
        print(f"  {label:<{width}}  {text}", file=stream)
    for table in tables(trace):
        print(f"\n{table.title}", file=stream)
        for line in [*_lines(table), *textwrap.wrap(table.note, _NOTE_WIDTH)]:
            print(f"  {line}", file=stream)
    print("\nfindings", file=stream)
    for sentence in findings(trace):
        print(f"  {sentence}", file=stream)


def _lines(table: Table) -> Iterator[str]:
    """A table's lines, headings first, cells padded to their column."""
    headings = [tuple(column.name for column in table.columns)] if table.headed else []
    widths = _widths(table)
    for row in [*headings, *table.rows]:
        cells = (
            f"{cell:>{width}}" if column.right else f"{cell:<{width}}"
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _widths(table: Table) -> list[int]:
    return [
        max(len(column.name), *(len(row[number]) for row in table.rows), 0)
        for number, column in enumerate(table.columns)
    ]


def _fitted(table: Table, width: int) -> tuple[Table, list[str]]:
    """The table without as many expendable columns as it takes to fit, and their names."""
    left_out: list[str] = []
    while sum(_widths(table)) + 2 * len(table.columns) > width:
        gone = max(range(len(table.columns)), key=lambda number: table.columns[number].expendable)
        if not table.columns[gone].expendable:
            break
        left_out.append(table.columns[gone].name)
        table = table.without(gone)
    return table, left_out


def _show_rich(trace: Trace, stream: TextIO) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    console.print(Text(trace.title, style="bold cyan"))
    grid = Grid.grid(padding=(0, 2))
    for label, text in trace.settings:
        grid.add_row(Text(label, style="dim"), Text(text))
    console.print(grid)
    for whole in tables(trace, guides=console.encoding.startswith("utf")):
        table, left_out = _fitted(whole, console.width)
        console.print()
        console.print(Text(table.title, style="bold"))
        drawn = Grid(
            box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_header=table.headed
        )
        last = len(table.columns) - 1
        for number, column in enumerate(table.columns):
            drawn.add_column(
                column.name,
                justify="right" if column.right else "left",
                no_wrap=column.right,
                overflow="fold",
                style="yellow" if table.marked and number == last else "",
            )
        for row in table.rows:
            drawn.add_row(*map(Text, row))
        console.print(Padding(drawn, (0, 0, 0, 2), expand=False))
        notes = [table.note] if table.note else []
        if left_out:
            notes.append(f"in a wider terminal also: {', '.join(left_out)}")
        for note in notes:
            console.print(Padding(Text(note, style="dim"), (0, 0, 0, 2), expand=False))
    console.print()
    console.print(Text("findings", style="bold"))
    style = "red" if trace.not_finite else "yellow" if trace.findings else "green"
    for sentence in findings(trace):
        console.print(Padding(Text(sentence, style=style), (0, 0, 0, 2), expand=False))
