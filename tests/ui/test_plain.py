"""Plain lines: one an event, no colour, no exception."""

from __future__ import annotations

import io
import os

import pytest

from tests.helpers.display import play
from trainctl.training.display import Display
from trainctl.ui.plain import Plain


def test_a_whole_run_line_by_line() -> None:
    stream = io.StringIO()
    play(Plain(stream))
    assert stream.getvalue().splitlines() == [
        "run outputs/x",
        "  model     mlp: 3 parameters",
        "  device    cpu",
        "optim.momentum is dropped",
        "Epoch [2/3], Step [7/100], Loss: 0.1234  lr 1.0e-03  1234 samples/s",
        "epoch 2/3  train/loss 0.3100  val/loss 0.2500  val/accuracy 0.9000  1234 samples/s  12 s  best",
        "epoch 2/3  train/loss 0.3100  1234 samples/s  3.0 s",
        "best  step 5  val/loss 0.2500",
        "test  test/loss 0.5000",
        "run: outputs/x",
    ]
    assert "\033" not in stream.getvalue()


def test_each_line_is_there_at_once() -> None:
    """Who reads the pipe sees a line when it happens, not when a buffer is full."""
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    Plain(stream).notice("now")
    assert os.read(reading, 100) == b"now\n"
    stream.close()
    os.close(reading)


def test_silence_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    play(Display())
    assert capfd.readouterr() == ("", "")
