"""A traced step on a terminal, in a pipe and on a page."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest

from tests.helpers.display import Terminal
from trainctl.analysis.trace_report import Layer, Parameter, Timing, Trace, Values
from trainctl.ui.trace import duration, norm, show, tables
from trainctl.ui.trace_page import render

OUTPUTS = (Values((8, 2), "float32", -1.0, 1.25, 0),)
WEIGHT = Parameter(
    name="body.0.weight",
    shape=(2, 4),
    dtype="float32",
    size=8,
    trainable=True,
    lr=0.1,
    before=2.0,
    after=1.9,
    gradient=0.5,
    clipped=0.25,
    update=0.1,
    zeros=2,
    unchanged=False,
)
STEP = Trace(
    title="one training step: net on data",
    settings=(("model", "net: 14 parameters"), ("precision", "bf16")),
    inputs={"inputs": Values((8, 4), "float32", -2.0, 2.0, 0)},
    targets=Values((8,), "int64", 0.0, 1.0, 0),
    layers=(
        Layer("", "Net", 0, OUTPUTS, 1, 14, 14),
        Layer("body", "Sequential", 1, OUTPUTS, 1, 8, 8),
        Layer("body.0", "Linear", 2, OUTPUTS, 1, 8, 8),
        Layer("body.1", "ReLU", 2, OUTPUTS, 1, 0, 0),
        Layer("head", "Linear", 1, OUTPUTS, 1, 6, 6),
    ),
    parameters=(WEIGHT,),
    loss=0.75,
    loss_after=0.5,
    gradient_norm=0.5,
    clipped_norm=0.25,
    clip_norm=0.25,
    cleared=0,
    to_clear=1,
    clears=True,
    accumulate=1,
    refused=None,
    timing=Timing({"forward": 2e-3, "backward": 6e-3}, 8e-3, 5, 0.5, False, True),
    findings=(),
    not_finite=None,
)


def shown(trace: Trace, mode: str = "plain") -> list[str]:
    stream = io.StringIO()
    show(trace, mode, stream)
    return stream.getvalue().splitlines()


def test_line_by_line_in_a_pipe() -> None:
    assert shown(STEP, "auto") == [
        "one training step: net on data",
        "  model      net: 14 parameters",
        "  precision  bf16",
        "",
        "batch",
        "           shape   type     range",
        "  inputs   (8, 4)  float32  -2 to 2",
        "  targets  (8,)    int64    0 to 1",
        "  first batch of the first epoch",
        "",
        "forward",
        "  module  class       output  range       parameters",
        "  model   Net         (8, 2)  -1 to 1.25          14",
        "    body  Sequential  (8, 2)  -1 to 1.25           8",
        "      0   Linear      (8, 2)  -1 to 1.25           8",
        "      1   ReLU        (8, 2)  -1 to 1.25           –",
        "    head  Linear      (8, 2)  -1 to 1.25           6",
        "",
        "backward and step",
        "  parameter      shape   before  after  gradient  clipped  zeros  update  relative",
        "  body.0.weight  (2, 4)   2.000  1.900    0.5000   0.2500    25%  0.1000   0.05000",
        "  Euclidean norms. before, after: the value. gradient: after backward. clipped: what the optimizer",
        "  used. update: after − before. relative: update / before. zeros: gradient entries that are 0.",
        "",
        "gradients",
        "  all gradients  norm 0.5000",
        "  clip_norm      0.25: all gradients scaled by one factor, to norm 0.2500",
        "  zero_grad      had nothing to clear: before the first step no parameter has a gradient;"
        " the next step clears the 1 left by this one",
        "",
        "loss",
        "  before  0.7500000  of this batch, as training logs it for step 1",
        "  after   0.5000000  -0.2500: same batch and random numbers (dropout masks) on a copy:"
        " only the update differs",
        "",
        "time",
        "                 time  share",
        "  forward     2.00 ms    25%",
        "  backward    6.00 ms    75%",
        "  whole step  8.00 ms",
        "  median of 5 more steps on a copy; the traced step took 500 ms, setup and measuring included",
        "",
        "findings",
        "  every parameter has a finite gradient and was updated",
    ]


def drawn(trace: Trace, columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    show(trace, "auto", stream)
    return re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())


def test_on_a_terminal_the_modules_are_joined_to_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(STEP, 100, monkeypatch)
    names = [line.split("  ")[1:] for line in text.splitlines() if "(8, 2)" in line]
    assert len(names) == 5
    for start in ("├─ body", "│  ├─ 0", "│  └─ 1", "└─ head"):
        assert start in text
    assert "\n\nforward" in "\n".join(line.rstrip() for line in text.splitlines())


def test_a_narrow_terminal_leaves_out_what_matters_least_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = drawn(STEP, 100, monkeypatch), drawn(STEP, 64, monkeypatch)
    assert "hidden in" not in wide
    assert "hidden in this narrow terminal: zeros, shape" in narrow
    assert "body.0.weight   2.000" in narrow
    assert all(len(line) <= 64 for line in narrow.splitlines())


def test_a_terminal_that_knows_only_ascii_gets_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    assert "─" not in drawn(STEP, 100, monkeypatch)


def test_a_mode_of_none_shows_nothing() -> None:
    assert shown(STEP, "none") == []


def test_a_refused_step_says_what_did_not_happen() -> None:
    weight = replace(WEIGHT, gradient=None, clipped=None, zeros=0, update=0.0, after=2.0, unchanged=True)
    refused = replace(
        STEP,
        parameters=(weight,),
        loss=math.nan,
        loss_after=None,
        gradient_norm=None,
        clipped_norm=None,
        refused="the loss is nan",
        timing=None,
        findings=("no step was taken: the loss is nan",),
    )
    text = "\n".join(shown(refused))
    assert "none: the step ended before backward" in text
    assert "no update" not in text
    assert "before  nan  of this batch\n" in text
    assert "after     –  no step was taken" in text
    assert "\ntime" not in text
    assert text.endswith("findings\n  no step was taken: the loss is nan")


def test_what_is_remarkable_stands_beside_its_row() -> None:
    odd = replace(
        STEP,
        inputs={"inputs": Values((8, 4), "float32", None, None, 32)},
        layers=(
            replace(STEP.layers[0], trainable=6),
            replace(STEP.layers[1], trainable=0, calls=3),
            replace(STEP.layers[2], trainable=0, calls=0, outputs=()),
            replace(STEP.layers[3], outputs=(replace(OUTPUTS[0], dtype="bfloat16", not_finite=5), *OUTPUTS)),
            STEP.layers[4],
        ),
        parameters=(replace(WEIGHT, trainable=False, gradient=None, clipped=None),),
    )
    batch, modules, parameters, *_ = tables(odd)
    assert batch.rows[0] == ("inputs", "(8, 4)", "float32", "–", "32 not finite")
    assert [row[-1] for row in modules.rows] == [
        "8 frozen",
        "called 3 times, frozen",
        "not called, frozen",
        "5 not finite",
        "",
    ]
    assert modules.rows[3][2] == "(8, 2) + (8, 2) bfloat16/float32"
    assert parameters.rows[0][-1] == "frozen"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clip_norm": 1.0}, "1: not applied, the norm is not above it"),
        ({"clipped_norm": None}, "0.25: not applied, no optimizer step"),
        ({"cleared": 4}, "cleared the gradients of 4 parameters; the next step clears the 1"),
        ({"clears": False, "to_clear": 0}, "not called by this step: the loop clears gradients itself"),
        ({"clears": False, "to_clear": 3}, "not called by this step: 3 parameters keep their gradient"),
        (
            {"clears": False, "to_clear": 0, "gradient_norm": None},
            "not called by this step: there is no gradient to clear",
        ),
        ({"gradient_norm": None}, "none: autograd computed no gradient"),
        ({"accumulate": 2}, "called once for all batches, had nothing to clear"),
        ({"loss_after": math.nan}, "nan  same batch"),
        ({"loss_after": 0.75}, "0.7500000  same batch"),
    ],
)
def test_gradients_and_loss_in_words(changes: dict[str, object], said: str) -> None:
    assert said in "\n".join(shown(replace(STEP, **changes)))  # type: ignore[arg-type]


def test_numbers_and_times_have_their_digits() -> None:
    assert [norm(value) for value in (None, 0.0, 0.5, 123.4, 1e-9, math.inf)] == [
        *("–", "0", "0.5000", "123.4"),
        *("1.000e-09", "inf"),
    ]
    assert [duration(value) for value in (2.3e-5, 1e-3, 0.0151, 0.999, 2.3)] == [
        *("23.0 µs", "1.00 ms"),
        *("15.1 ms", "999 ms", "2.30 s"),
    ]


def test_the_page_nests_the_modules() -> None:
    page = render(STEP)
    assert page.count("<details open>") == page.count("</details>") == 2
    body, head = page.index(">body<"), page.index(">head<")
    assert page.index(">1<", body) < page.index("</details>") < head
    assert '<span style="width:33.3%">' in page
