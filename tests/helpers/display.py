"""Streams that say that they are terminals, and a run's worth of events for a display."""

from __future__ import annotations

import io

from trainctl.training.display import Display, Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


PROGRESS = Progress(
    step=107,
    total_steps=300,
    epoch=2,
    epochs=3,
    epoch_step=7,
    epoch_steps=100,
    loss=0.12344,
    smoothed=0.2,
    epoch_loss=0.31,
    lr=0.001,
    speed=1234.4,
)


class Still:
    def progress(self) -> Progress:
        return PROGRESS


def play(display: Display) -> None:
    """A whole run's worth of events."""
    display.header("run outputs/x", [("model", "mlp: 3 parameters"), ("device", "cpu")])
    display.notice("optim.momentum is dropped")
    display.live(Still())
    display.step(PROGRESS)
    display.epoch(PROGRESS, {"val/loss": 0.25, "val/accuracy": 0.9}, 12.0, best=True)
    display.epoch(PROGRESS, {}, 3.0, best=False)
    display.closing(
        {"best": {"step": 5, "val/loss": 0.25}, "test": {"test/loss": 0.5}}, [("run", "outputs/x")]
    )
    display.close()


class Broken(io.StringIO):
    """A stream whose other end has gone."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.calls = error, 0

    def write(self, text: str) -> int:
        self.calls += 1
        raise self.error

    def isatty(self) -> bool:
        return True
