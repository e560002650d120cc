"""When checkpoints are made, what is in them and which stay."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.small_run import make_run
from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData, read_checkpoint, ready_to_save, verify_checkpoint
from trainctl.checkpoint.retention import list_checkpoints
from trainctl.errors import NotFiniteError, StorageError
from trainctl.registry.protocols import Batch
from trainctl.training.hooks.best import Best
from trainctl.training.hooks.checkpointer import Checkpointer
from trainctl.training.loop import fit
from trainctl.training.run import Hook, Run

FOLDER = Path("checkpoints")
DESCRIBED = {"input_shape": [6], "output_size": 3}


def hold(run: Run, copied: bool) -> Callable[[], CheckpointData]:
    plain = {**run.state.state_dict(), "data": DESCRIBED, "data_fingerprint": ""}
    content = ready_to_save(snapshot.take(run.model.state_dict(), plain, run.parts()))
    return lambda: content


def make(**arguments: Any) -> Checkpointer:
    return Checkpointer(FOLDER, hold, **arguments)


def read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    content = read_checkpoint(path)
    return content.model, content.state


class Scripted(Hook):
    """Calls the evaluations of a run the best ones at these epochs."""

    def __init__(self, epochs: Sequence[int]) -> None:
        self.epochs = epochs

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        run.state.last = {**run.state.where, **values}
        if run.state.position == 0 and run.state.epoch in self.epochs:
            run.state.best = dict(run.state.last)


class Listing(Hook):
    """Notes the steps that are on disk after each evaluation."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def batch(self, run: Run, batch: Batch) -> None:
        if run.state.position == 0 < run.state.step:
            self.steps.append(on_disk())

    def end(self, run: Run) -> None:
        self.steps.append(on_disk())


def on_disk() -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(FOLDER)]


def saved(best: Sequence[int], total_steps: int = 35, **arguments: Any) -> tuple[list[list[int]], list[int]]:
    """Steps on disk after each epoch of seven steps, and at the end."""
    listing = Listing()
    fit(
        make_run(
            total_steps=total_steps,
            hooks=[listing, Scripted(best), make(**arguments)],
        )
    )
    return listing.steps, on_disk()


def test_the_best_and_the_newest_stay() -> None:
    after, end = saved(best=[1, 3])
    assert after == [[7], [7, 14], [21], [21, 28], [21, 35]]
    assert end == [21, 35]


def test_only_every_so_many_epochs_and_each_best_are_saved() -> None:
    after, end = saved(best=[1, 3], total_steps=37, every_epochs=4, keep_last=9)
    assert after == [[7], [7], [7, 21], [7, 21, 28], [7, 21, 28], [7, 21, 28]]
    assert end == [7, 21, 28, 37]


def test_a_checkpoint_holds_parameters_cursor_results_and_description() -> None:
    best = Best("val/accuracy", lower_is_better=False)
    run = make_run(total_steps=10, hooks=[best, make()])
    fit(run)
    tensors, state = read(FOLDER / "step-00000010")
    assert all(torch.equal(value, tensors[name]) for name, value in run.model.state_dict().items())
    assert (state["step"], state["epoch"], state["position"]) == (10, 1, 24)
    assert state["best"] == run.state.best
    assert state["last"] == run.state.last
    assert state["num_bad_epochs"] == run.state.num_bad_epochs
    assert state["data"] == DESCRIBED


def test_saving_within_an_epoch_keeps_the_cursor() -> None:
    """What a run that is stopped does."""
    checkpointer = make()

    class Stopping(Hook):
        def step(self, run: Run, loss: Tensor) -> None:
            if run.state.step == 9:
                raise KeyboardInterrupt

    run = make_run(total_steps=35, hooks=[Scripted([1]), checkpointer, Stopping()])
    with pytest.raises(KeyboardInterrupt):
        fit(run)
    checkpointer.save(run)
    path = checkpointer.path(run)
    assert path == FOLDER / "step-00000009"
    _, state = read(path)
    assert (state["step"], state["epoch"], state["position"]) == (9, 1, 16)
    assert on_disk() == [7, 9]


def test_a_step_is_saved_once() -> None:
    run, checkpointer = make_run(), make()
    run.state.step = 3
    run.attach([checkpointer])
    checkpointer.save(run)
    path = checkpointer.path(run)
    written = (path / "manifest.json").stat().st_mtime_ns
    checkpointer.evaluated(run, {})
    checkpointer.end(run)
    checkpointer.save(run)
    assert (path / "manifest.json").stat().st_mtime_ns == written


def test_parameters_that_are_not_finite_cost_no_older_checkpoint() -> None:
    run, checkpointer = make_run(), make()
    run.state.step = 3
    checkpointer.save(run)
    run.state.step = 4
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="NaN or infinite values at step 4"):
        checkpointer.save(run)
    assert on_disk() == [3]


def test_steps_in_the_middle_of_an_epoch_are_saved() -> None:
    after, end = saved(best=[], every_steps=5, every_epochs=None, keep_last=99)
    assert after == [[5], [5, 10], [5, 10, 15, 20], [5, 10, 15, 20, 25], [5, 10, 15, 20, 25, 30, 35]]
    assert end == [5, 10, 15, 20, 25, 30, 35]


def test_time_that_has_passed_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Clock(Hook):
        def step(self, run: Run, loss: Tensor) -> None:
            nonlocal now
            now += 20.0  # seconds a step

    monkeypatch.setattr("trainctl.training.hooks.checkpointer.time.monotonic", lambda: now)
    fit(make_run(total_steps=10, hooks=[Clock(), make(every_minutes=1.0, every_epochs=None, keep_last=9)]))
    assert on_disk() == [3, 6, 9, 10]


def test_the_best_evaluated_ones_stay() -> None:
    values = iter([0.5, 0.9, 0.1, float("nan"), 0.7])

    class Values(Hook):
        def evaluated(self, run: Run, metrics: Mapping[str, float]) -> None:
            value = next(values)
            run.state.last = {**run.state.where, "val/score": value}
            checkpointer.evaluated(run, {"val/score": value})

        def save(self, run: Run) -> None:
            checkpointer.save(run)

    checkpointer = make(keep_best=2, monitor="val/score", lower_is_better=False, every_epochs=99)
    fit(make_run(total_steps=35, hooks=[Values()]))
    assert on_disk() == [14, 35]
    assert checkpointer.state_dict() == {"ranked": [[-0.9, 0.0, 14], [-0.7, 0.0, 35]]}


def test_of_equal_ones_those_of_the_lower_loss_stay_then_the_later() -> None:
    evaluations = iter([(0.9, 0.3), (0.9, 0.1), (0.9, float("nan")), (0.9, 0.3), (0.2, 0.0)])

    class Values(Hook):
        def evaluated(self, run: Run, metrics: Mapping[str, float]) -> None:
            score, loss = next(evaluations)
            run.state.last = {**run.state.where, "val/score": score}
            checkpointer.evaluated(run, {"val/score": score, "val/loss": loss})

        def save(self, run: Run) -> None:
            checkpointer.save(run)

    checkpointer = make(keep_best=2, monitor="val/score", lower_is_better=False, every_epochs=99)
    fit(make_run(total_steps=35, hooks=[Values()]))
    assert checkpointer.state_dict() == {"ranked": [[-0.9, 0.1, 14], [-0.9, 0.3, 28]]}
    assert on_disk() == [14, 28]


def test_overlapping_writes_what_the_run_was_then() -> None:
    class Late(Hook):
        """Holds the writing back until two more steps were taken."""

        def __init__(self) -> None:
            self.go = threading.Event()

        def step(self, run: Run, loss: Tensor) -> None:
            if run.state.step == 5:
                self.kept = {name: value.clone() for name, value in run.model.state_dict().items()}
            if run.state.step == 7:
                self.go.set()

    late = Late()
    checkpointer = make(
        writer=ThreadPoolExecutor(1),
        every_steps=5,
        every_epochs=None,
        keep_last=9,
        sync=lambda: late.go.wait(30),
    )
    fit(make_run(total_steps=8, hooks=[late, checkpointer]))
    tensors, state = read(FOLDER / "step-00000005")
    assert state["step"] == 5
    assert all(torch.equal(value, tensors[name]) for name, value in late.kept.items())
    assert on_disk() == [5, 8]


def test_what_fails_in_the_writing_thread_ends_the_run() -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fit(make_run(total_steps=35, hooks=[make(writer=ThreadPoolExecutor(1), every_steps=3, sync=full)]))
    assert on_disk() == []


def test_an_older_checkpoint_goes_only_after_the_new_one_was_found_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damaged(path: Path) -> None:
        if path.name == "step-00000014":
            (path / "model.safetensors").write_bytes(b"")
        verify(path)

    verify = verify_checkpoint
    monkeypatch.setattr("trainctl.training.hooks.checkpointer.verify_checkpoint", damaged)
    with pytest.raises(StorageError, match=r"does not read back: .*step-00000014"):
        fit(make_run(total_steps=35, hooks=[make()]))
    assert on_disk() == [7, 14]
    read_checkpoint(FOLDER / "step-00000007")


THREADS = """
import os, sys, torch
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from torch import nn
from trainctl.checkpoint.format import CheckpointData, ready_to_save
from trainctl.training.hooks.checkpointer import Checkpointer
from tests.helpers.small_run import make_run

run = make_run()
torch.set_num_threads(2)  # the run has set another number
(torch.ones(512, 512) @ torch.ones(512, 512)).relu_()
tied = torch.ones(600, 600)
content = CheckpointData({"one": tied, "other": tied}, {"part": torch.ones(900, 900)[:700]}, {"step": 1})
count = lambda: len(os.listdir("/proc/self/task"))
content = ready_to_save(content)
hook = Checkpointer(Path("checkpoints"), lambda run, copied: lambda: content, writer=ThreadPoolExecutor(1))
run.state.step = 1
before = count()
hook.save(run)
hook.wait()
print(count() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc counts the threads")
@pytest.mark.slow
def test_the_writer_takes_no_threads_of_openmp(tmp_path: Path) -> None:
    # With a pool of its own beside the trainer's, every operation of training would take longer from then on.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", THREADS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stdout + done.stderr


class Clock(Hook):
    """Moves the time between the epochs of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr("trainctl.training.hooks.checkpointer.time.monotonic", lambda: self.now)

    def batch(self, run: Run, batch: Batch) -> None:
        if run.state.position == 0 < run.state.step:
            self.now += self.seconds


def spaced(clock: Hook, best: Sequence[int], **arguments: Any) -> tuple[list[list[int]], list[int]]:
    listing = Listing()
    checkpointer = make(every_epochs="auto", **arguments)
    fit(make_run(total_steps=42, hooks=[listing, Scripted(best), checkpointer, clock]))
    return listing.steps, on_disk()


def test_by_itself_it_leaves_out_what_the_next_epoch_would_delete(monkeypatch: pytest.MonkeyPatch) -> None:
    after, end = spaced(Clock(monkeypatch, 0.75), best=[])
    assert after == [[7], [7], [7], [28], [28], [28]]
    assert end == [42]


def test_a_slow_disk_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times as long as a checkpoint took to write, 6 s here: two epochs of 2.5 s are left out."""
    clock, put = Clock(monkeypatch, 2.5), Checkpointer.put

    def slowly(self: Checkpointer, content: CheckpointData) -> Path:
        clock.now += 1.5
        return put(self, content)

    monkeypatch.setattr(Checkpointer, "put", slowly)
    after, end = spaced(clock, best=[])
    assert after == [[7], [7], [7], [28], [28], [28]]
    assert end == [42]


def test_a_best_one_waits_in_memory_unless_a_better_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    after, end = spaced(Clock(monkeypatch, 0.75), best=[2, 3])
    assert after == [[7], [7], [7], [21], [21], [21]]
    assert end == [21, 42]
    assert read(FOLDER / "step-00000021")[1]["step"] == 21


def test_what_waits_is_written_before_the_newest_and_when_the_run_is_stopped() -> None:
    for stop in (Checkpointer.save, Checkpointer.close):
        run, checkpointer = make_run(hooks=[Scripted([2])]), make(every_epochs="auto")
        checkpointer.start(run)
        for epoch in (1, 2, 3):
            run.state.step, run.state.epoch = 7 * epoch, epoch
            run.call("evaluated", {})
            checkpointer.evaluated(run, {})
            checkpointer.save(run)
        assert on_disk() == [7]
        stop(checkpointer, run)
        assert on_disk() == ([14, 21] if stop is Checkpointer.save else [14])
        FOLDER.rename(f"after {stop.__name__}")


def test_asked_for_or_with_more_to_keep_each_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spaced(Clock(monkeypatch, 0.0), best=[], keep_last=3)[0][-1] == [28, 35, 42]
