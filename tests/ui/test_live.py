"""The terminal, drawn on a console that records."""

from __future__ import annotations

import io
import math
import re
import threading
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from tests.helpers.display import PROGRESS, Still, play
from tests.helpers.program import wait_for
from trainctl.training.display import Progress
from trainctl.ui.live import Rich, sparkline


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    return


def ends_with(threads: int) -> bool:
    """Whether no more than these threads are left soon: rich's own ends at its next turn."""
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.02)
    return threading.active_count() <= threads


def recording(width: int = 120) -> Console:
    return Console(record=True, width=width, force_terminal=True, file=io.StringIO(), highlight=False)


def rich(console: Console) -> Rich:
    return Rich(io.StringIO(), console=console)


@pytest.mark.parametrize(
    ("values", "picture"),
    [
        ([], ""),
        ([1.0], "▁"),
        ([1.0, 1.0, 1.0], "▁▁▁"),
        ([0.0, 7.0], "▁█"),
        ([7.0, 0.0], "█▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([math.nan, 0.0, math.inf, 7.0, -math.inf], "▁█"),
        ([math.nan], ""),
        ([-1e30, 1e30], "▁█"),
    ],
)
def test_a_sparkline(values: list[float], picture: str) -> None:
    assert sparkline(values) == picture


def test_a_sparkline_shows_the_newest() -> None:
    assert sparkline([100.0, *([0.0] * 5)], width=5) == "▁▁▁▁▁"
    assert len(sparkline(range(100))) == 24


def test_a_whole_run() -> None:
    console = recording()
    play(rich(console))
    text = console.export_text()
    for part in (
        "run outputs/x",
        "mlp: 3 parameters",
        "optim.momentum is dropped",
        "Epoch [2/3], Step [7/100], Loss: 0.1234  lr 1.0e-03  1,234 samples/s",
        "val/accuracy",
        "0.9000",
        "12 s",
        "best",
        "outputs/x",
    ):
        assert part in text, part


def test_a_row_an_epoch_under_headings_that_are_said_once() -> None:
    console = recording()
    display = rich(console)
    for epoch in (1, 2, 3):
        progress = Progress(epoch=epoch, epochs=3, epoch_loss=0.5, speed=1000.0)
        display.epoch(progress, {"val/loss": 0.25, "val/accuracy": 0.9}, 1.0, best=epoch == 2)
    heading, *rows = console.export_text().splitlines()
    assert heading.split() == ["epoch", "train/loss", "val/loss", "val/accuracy", "samples/s", "time"]
    assert [row.split()[:5] for row in rows] == [
        [f"{epoch}/3", "0.5000", "0.2500", "0.9000", "1,000"] for epoch in (1, 2, 3)
    ]
    assert [row.endswith("best") for row in rows] == [False, True, False]
    assert [row.index("0.9000") + 6 for row in rows] == [heading.index("val/accuracy") + 12] * 3


def test_other_columns_get_headings_of_their_own() -> None:
    console = recording()
    display = rich(console)
    display.epoch(PROGRESS, {}, 1.0, best=False)
    display.epoch(PROGRESS, {"val/loss": 1.0}, 1.0, best=False)
    assert console.export_text().count("train/loss") == 2


def test_the_closing_table_has_a_row_a_kind_and_a_column_a_value() -> None:
    console = recording()
    rows = {
        "best": {"step": 5, "epoch": 1, "val/loss": 0.25, "val/accuracy": 0.9},
        "last": {"step": 9, "epoch": 2, "val/loss": 0.5, "val/accuracy": 0.8},
        "test": {"step": 5, "epoch": 1, "test/loss": 0.75, "test/accuracy": 0.7},
    }
    rich(console).closing(rows, [("checkpoint", "outputs/x/checkpoints/step-5"), ("run", "outputs/x")])
    lines = [line.split() for line in console.export_text().splitlines() if line.strip()]
    assert lines == [
        ["step", "epoch", "loss", "accuracy"],
        ["best", "5", "1", "0.2500", "0.9000"],
        ["last", "9", "2", "0.5000", "0.8000"],
        ["test", "5", "1", "0.7500", "0.7000"],
        ["checkpoint", "outputs/x/checkpoints/step-5"],
        ["run", "outputs/x"],
    ]


@pytest.mark.parametrize(
    "text", ["[red]not markup[/red]", "[/]", "a[0]=b", "model.layers=[{Linear: 3}]", ":smile:"]
)
def test_what_the_user_wrote_is_shown_as_it_is(text: str) -> None:
    console = recording()
    display = rich(console)
    display.header(text, [("model", text)])
    display.notice(text)
    display.closing({"best": {"step": 1}}, [("run", text)])
    assert console.export_text().count(text) == 4


class Counting:
    """A source that counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def progress(self) -> Progress:
        self.calls += 1
        return Progress(
            step=self.calls, total_steps=99, loss=0.5, smoothed=0.25, remaining=65.0, history=[1.0, 0.5, 0.25]
        )


def test_the_live_line_is_redrawn_and_gone_in_the_end() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True, highlight=False)
    display, source = rich(console), Counting()
    threads = threading.active_count()
    display.live(source)
    wait_for(lambda: source.calls >= 3, 5)
    display.close()
    assert source.calls >= 3
    assert ends_with(threads)
    drawn = stream.getvalue()
    for part in ("loss 0.5000", "smoothed 0.2500", "1:05 left", "/99", "█"):
        assert part in drawn, part
    assert drawn.count("\033[?25l") == drawn.count("\033[?25h") == 1
    calls = source.calls
    time.sleep(0.3)
    assert source.calls == calls


def test_closing_ends_the_live_line_and_closing_again_is_no_error() -> None:
    display = rich(recording())
    threads = threading.active_count()
    display.live(Still())
    display.closing({"best": {"step": 1}}, [])
    assert ends_with(threads)
    display.close()
    display.close()


def test_numbers_that_are_not_known_yet_are_no_error() -> None:
    display = rich(recording())

    class Empty:
        def progress(self) -> Progress:
            return Progress()

    display.live(Empty())
    display.epoch(Progress(), {"val/loss": math.nan, "val/r2": -math.inf}, 0.0, best=False)
    display.close()


@pytest.mark.parametrize("width", [10, 20, 40, 80])
def test_a_narrow_terminal_is_no_error_and_loses_no_value(width: int) -> None:
    console = recording(width)
    play(rich(console))
    text = re.sub(r"\s+", "", console.export_text())
    for part in ("0.3100", "0.2500", "0.9000", "12s"):
        assert part in text, part


def test_no_colour_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    def colours() -> list[str]:
        stream = io.StringIO()
        play(Rich(stream, console=Console(file=stream, width=120, force_terminal=True, highlight=False)))
        codes = [
            code for part in re.findall(r"\x1b\[([\d;]*)m", stream.getvalue()) for code in part.split(";")
        ]
        return [code for code in codes if re.fullmatch(r"[349][0-7]|38|48|10[0-7]", code)]

    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()
