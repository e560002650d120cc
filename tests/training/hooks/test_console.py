"""What the console hook tells a display: the newest loss, its running mean, the epoch's mean."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping

import pytest
import torch

from tests.helpers.small_run import Recorder, make_run
from trainctl.training.display import Display, Progress, Source
from trainctl.training.hooks.best import Best
from trainctl.training.hooks.console import Console
from trainctl.training.loop import fit
from trainctl.training.run import Hook, Run


class Sink(Display):
    """A display that notes what it is told."""

    def __init__(self, every: int | None = None) -> None:
        self.every = every
        self.source: Source | None = None
        self.steps: list[Progress] = []
        self.epochs: list[Progress] = []
        self.values: list[dict[str, float]] = []
        self.best: list[bool] = []

    def live(self, source: Source) -> None:
        self.source = source

    def step(self, progress: Progress) -> None:
        self.steps.append(progress)

    def epoch(self, progress: Progress, values: Mapping[str, float], seconds: float, *, best: bool) -> None:
        assert 0 <= seconds < 60
        self.epochs.append(progress)
        self.values.append(dict(values))
        self.best.append(best)


def shown(
    every: int | None = None, total_steps: int = 16, hooks: tuple[Hook, ...] = ()
) -> tuple[Sink, Recorder]:
    sink, recorder = Sink(every), Recorder()
    fit(make_run(total_steps=total_steps, hooks=[recorder, *hooks, Console(sink, 3)]))
    return sink, recorder


def smoothed(losses: list[float]) -> float:
    mean = losses[0]
    for loss in losses[1:]:
        mean = 0.98 * mean + 0.02 * loss
    return mean


@pytest.mark.parametrize("every", [1, 3, 5])
def test_each_asked_for_step_is_shown_with_its_loss_and_running_mean(every: int) -> None:
    sink, recorder = shown(every)
    wanted = list(range(every, 17, every))
    assert [progress.step for progress in sink.steps] == wanted
    for progress in sink.steps:
        losses = recorder.losses[: progress.step]
        assert progress.loss == losses[-1]
        assert progress.smoothed == pytest.approx(smoothed(losses), rel=1e-9)
        assert progress.lr == 0.1


def test_a_steps_place_in_run_and_epoch() -> None:
    sink, _ = shown(1)
    places = [(each.epoch, each.epoch_step) for each in sink.steps]
    assert places == [(1, step) for step in range(1, 8)] + [(2, step) for step in range(1, 8)] + [
        (3, 1),
        (3, 2),
    ]
    assert {(each.total_steps, each.epochs, each.epoch_steps) for each in sink.steps} == {(16, 3, 7)}


@pytest.mark.parametrize("every", [None, 1, 4])
def test_an_epochs_loss_is_the_mean_of_its_steps(every: int | None) -> None:
    sink, recorder = shown(every)
    parts = [recorder.losses[:7], recorder.losses[7:14], recorder.losses[14:]]
    assert [each.epoch_loss for each in sink.epochs] == pytest.approx(
        [sum(part) / len(part) for part in parts]
    )
    assert [each.epoch for each in sink.epochs] == [1, 2, 3]
    assert sink.values == recorder.values
    assert all(each.speed > 0 for each in sink.epochs)


def test_the_best_epochs_are_marked() -> None:
    class Fixed(Hook):
        def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
            if run.state.epoch == 2:
                run.state.best = dict(run.state.where)

    assert shown(total_steps=21, hooks=(Fixed(),))[0].best == [False, True, False]
    assert True in shown(hooks=(Best("val/accuracy", lower_is_better=False),))[0].best


def test_progress_before_the_first_step_is_empty_but_not_an_error() -> None:
    sink, seen = Sink(), []

    class Looking(Hook):
        def start(self, run: Run) -> None:
            assert sink.source is not None
            seen.append(sink.source.progress())

    fit(make_run(total_steps=1, hooks=[Console(sink, 1), Looking()]))
    (progress,) = seen
    assert (progress.step, progress.epoch_step, progress.epoch) == (0, 0, 1)
    assert math.isnan(progress.loss)
    assert progress.remaining is None
    assert progress.history == []


def test_a_loss_that_is_not_a_number_does_not_stay_in_the_running_mean() -> None:
    run, sink = make_run(), Sink(1)
    console = Console(sink, 1)
    console.start(run)
    for step, loss in enumerate([1.0, math.nan, 3.0, 3.0], 1):
        run.state.step = step
        console.step(run, torch.tensor(loss))
    assert sink.steps[1].loss != sink.steps[1].loss
    assert sink.steps[-1].loss == 3.0
    assert math.isfinite(sink.steps[-1].smoothed)


def test_the_history_is_short_and_ends_with_the_newest_mean() -> None:
    run, sink = make_run(total_steps=1000), Sink(1)
    console = Console(sink, 1)
    console.start(run)
    for step in range(1, 101):
        run.state.step = step
        console.step(run, torch.tensor(float(step)))
    assert len(sink.steps[-1].history) == 24
    assert sink.steps[-1].history[-1] == sink.steps[-1].smoothed
    assert sink.steps[-1].history == sorted(sink.steps[-1].history)


def test_no_loss_is_lost_while_another_thread_looks() -> None:
    run, sink = make_run(total_steps=100_000), Sink()
    console = Console(sink, 1)
    console.start(run)
    done = threading.Event()
    errors: list[BaseException] = []

    def look() -> None:
        while not done.is_set():
            try:
                console.progress()
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    losses = [torch.tensor(float(number)) for number in range(3000)]
    for step, loss in enumerate(losses, 1):
        run.state.step = step
        console.step(run, loss)
    done.set()
    for thread in threads:
        thread.join()
    console.evaluated(run, {})
    assert not errors
    assert sink.epochs[0].epoch_loss == pytest.approx(2999 / 2, rel=1e-12)


def test_after_a_restart_speed_and_remaining_time_count_the_own_steps_only() -> None:
    run, sink = make_run(total_steps=1000), Sink()
    run.state.step, run.state.epoch = 990, 141
    console = Console(sink, 143)
    console.start(run)
    assert console.progress().speed == 0
    assert console.progress().remaining is None


def test_every_epoch_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("trainctl")
    log.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger="trainctl")
    try:
        shown()
    finally:
        log.removeHandler(caplog.handler)
    texts = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch ")]
    assert [text.split()[1] for text in dict.fromkeys(texts)] == ["1/3", "2/3", "3/3"]
    assert all("train/loss" in text and "val/accuracy" in text for text in texts)
