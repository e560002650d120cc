"""A traced step as tables, and on the screen; ``trace_page`` makes a page of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, TextIO

from trainctl.ui.screen import Screen
from trainctl.ui.table import NOTHING, Column, Table

if TYPE_CHECKING:
    from trainctl.analysis.trace_report import Layer, Parameter, Trace
    from trainctl.analysis.values import Values

_REMARK = Column("", style="yellow")


def tables(trace: Trace, *, guides: bool = False) -> list[Table]:
    """All but title and findings, in the order of the step."""
    found = [batch(trace), modules(trace, guides=guides), parameters(trace), gradients(trace), loss(trace)]
    return found if trace.timing is None else [*found, times(trace)]


def batch(trace: Trace) -> Table:
    """The batch's inputs and targets."""
    columns = (Column(""), Column("shape"), Column("type"), Column("range"), _REMARK)
    rows = tuple(
        (name, shape(each), each.dtype, extent(each), not_finite(each))
        for name, each in (*trace.inputs.items(), ("targets", trace.targets))
    )
    note = "first batch of the first epoch"
    if trace.accumulate > 1:
        note = f"first {trace.accumulate} batches of the first epoch, their gradients accumulated to one step"
    return Table(columns, rows, "batch", note).without_empty_end()


def modules(trace: Trace, *, guides: bool = False) -> Table:
    """The model's modules, indented, or joined by lines with ``guides``."""
    columns = (
        Column("module"),
        Column("class"),
        Column("output"),
        Column("range", expendable=1),
        Column("parameters", right=True),
        _REMARK,
    )
    starts = _guides(trace.layers) if guides else ["  " * layer.depth for layer in trace.layers]
    rows = tuple(
        (
            start + module_name(layer),
            layer.kind,
            *outputs(layer),
            count(layer),
            ", ".join(remarks(layer, trace)),
        )
        for start, layer in zip(starts, trace.layers, strict=True)
    )
    return Table(columns, rows, "forward", modules_note(trace)).without_empty_end()


def modules_note(trace: Trace) -> str:
    """Which calls the outputs come from, where there are several."""
    calls = trace.layers[0].calls
    return f"range over {calls} calls, shape of the first" if calls > 1 else ""


def module_name(layer: Layer) -> str:
    return layer.name.rpartition(".")[2] or "model"


def outputs(layer: Layer) -> tuple[str, str]:
    """The shapes of a module's outputs, with the type unless it is float32, and their range."""
    if not layer.outputs:
        return NOTHING, NOTHING
    kinds = {each.dtype for each in layer.outputs}
    kind = "" if kinds == {"float32"} else f" {'/'.join(sorted(kinds))}"
    return " + ".join(map(shape, layer.outputs)) + kind, extent(reduce(add, layer.outputs))


def count(layer: Layer) -> str:
    return f"{layer.parameters:,}" if layer.parameters else NOTHING


def remarks(layer: Layer, trace: Trace) -> Iterator[str]:
    """What is unusual about a module."""
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
        _REMARK,
    )
    rows = tuple(_parameter(each, trace) for each in trace.parameters)
    clipped = " clipped: what the optimizer used." if clips else ""
    note = (
        "Euclidean norms. before, after: the value. gradient: after backward."
        f"{clipped} update: after − before. relative: update / before."
        " zeros: gradient entries that are 0."
    )
    return Table(columns, rows, "backward and step", note).without_empty_end()


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
    """The norm of all gradients together, clipping, and what ``zero_grad`` did."""
    rows = [("all gradients", f"norm {norm(trace.gradient_norm)}")]
    if trace.gradient_norm is None:
        why = "autograd computed no gradient" if trace.refused is None else "the step ended before backward"
        rows = [("all gradients", f"none: {why}")]
    if trace.clip_norm is not None and trace.gradient_norm is not None:
        rows.append(("clip_norm", _clipping(trace, trace.gradient_norm, trace.clip_norm)))
    rows.append(("zero_grad", _clearing(trace)))
    return Table((Column(""), Column("")), tuple(rows), "gradients")


def _clipping(trace: Trace, before: float, most: float) -> str:
    if trace.clipped_norm is None:
        return f"{most:g}: not applied, no optimizer step"
    if before <= most:
        return f"{most:g}: not applied, the norm is not above it"
    return f"{most:g}: all gradients scaled by one factor, to norm {norm(trace.clipped_norm)}"


def _clearing(trace: Trace) -> str:
    if trace.refused is not None:
        return f"not called, no step was taken; {trace.to_clear} parameters hold a gradient"
    if not trace.clears:
        left = "the loop clears gradients itself"
        if trace.to_clear:
            left = f"{trace.to_clear} parameters keep their gradient"
        elif trace.gradient_norm is None:
            left = "there is no gradient to clear"
        return f"not called by this step: {left}"
    done = (
        f"cleared the gradients of {trace.cleared} parameters"
        if trace.cleared
        else "had nothing to clear: before the first step no parameter has a gradient"
    )
    once = "called once for all batches, " if trace.accumulate > 1 else ""
    return f"{once}{done}; the next step clears the {trace.to_clear} left by this one"


def loss(trace: Trace) -> Table:
    """The loss of the batch before the step and after it."""
    logged = ", as training logs it for step 1" if trace.refused is None else ""
    rows = [("before", _digits(trace.loss, 7), f"of this batch{logged}")]
    if trace.loss_after is None:
        rows.append(("after", NOTHING, "no step was taken"))
    else:
        change = trace.loss_after - trace.loss
        shown = f"{change:+#.4g}: " if math.isfinite(change) and change else ""
        what = "same batch and random numbers (dropout masks) on a copy: only the update differs"
        rows.append(("after", _digits(trace.loss_after, 7), f"{shown}{what}"))
    return Table((Column(""), Column("", right=True), Column("")), tuple(rows), "loss")


def times(trace: Trace) -> Table:
    """How long the parts of a step take."""
    timing = trace.timing
    assert timing is not None
    names = {"step": "step (with clipping)"} if timing.clipping else {}
    rows = [
        (names.get(phase, phase), duration(seconds), f"{seconds / timing.total:.0%}" if timing.total else "")
        for phase, seconds in timing.phases.items()
    ]
    rows.append(("whole step", duration(timing.total), ""))
    what = f"median of {timing.steps} more steps" if timing.steps > 1 else "one more step"
    waited = ", waiting for the device after each part" if timing.synchronized else ""
    note = (
        f"{what} on a copy{waited}; the traced step took {duration(timing.first)},"
        " setup and measuring included"
    )
    columns = (Column(""), Column("time", right=True), Column("share", right=True))
    return Table(columns, tuple(rows), "time", note)


def findings(trace: Trace) -> tuple[str, ...]:
    """What needs attention, or that nothing does."""
    return trace.findings or ("every parameter has a finite gradient and was updated",)


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
    """Print to ``stream``, as ``display.mode`` says."""
    screen = Screen(stream, mode)
    screen.line(trace.title, "bold cyan")
    screen.pairs(trace.settings)
    for table in tables(trace, guides=screen.is_unicode):
        screen.line()
        screen.table(table)
    screen.line()
    screen.line("findings", "bold")
    style = "red" if trace.not_finite else "yellow" if trace.findings else "green"
    for sentence in findings(trace):
        screen.line(sentence, style, indent=2)
