"""Trackers are told every row once, and nothing that they do stops a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.files import put
from tests.helpers.runs import WORDS, record
from tests.helpers.small_run import make_run
from trainctl.errors import InterruptedRunError, NotFiniteError
from trainctl.training.hooks import tracking
from trainctl.training.hooks.metrics_log import MetricsLog
from trainctl.training.hooks.tracking import Tracking, Watched
from trainctl.training.interrupts import Stopped
from trainctl.training.loop import fit
from trainctl.training.run import Hook


class Listener:
    """Writes down what it is told; raises, or hangs, where it is asked to."""

    def __init__(self, fault: str = "", error: BaseException | None = None) -> None:
        self.fault, self.error = fault, error or RuntimeError("no room\nand more")
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.calls: list[Any] = []
        self.released = threading.Event()

    def _maybe(self, method: str) -> None:
        if self.fault == method:
            raise self.error
        if self.fault == f"slow {method}":
            assert self.released.wait(30)

    def start(self, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        self.calls.append((directory, name, dict(config)))
        self._maybe("start")

    def metrics(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        self._maybe("metrics")
        self.rows += [(step, dict(values)) for step, values in rows]

    def artifact(self, path: Path) -> None:
        self._maybe("artifact")
        self.calls.append(path.name)

    def end(self, status: str) -> None:
        self._maybe("end")
        self.calls.append(status)


def tracked(listeners: dict[str, Any], every: int = 1, hooks: Sequence[Hook] = ()) -> tuple[Any, Any, Any]:
    """A run of 16 steps with these trackers, the hook, and the list of what people were told."""
    said: list[str] = []
    watched = {label: Watched(label, each, every) for label, each in listeners.items()}
    hook = Tracking(watched, Path("metrics.jsonl"), "mine", {"optim.lr": 0.1}, said.append)
    run = make_run(total_steps=16, hooks=[MetricsLog(Path("metrics.jsonl")), hook, *hooks])
    return run, hook, said


@pytest.mark.parametrize("every", [1, 3, 100])
def test_every_row_is_told_once_in_order(every: int) -> None:
    listener = Listener()
    run, hook, said = tracked({"one": listener}, every)
    fit(run)
    Path("here.png").write_bytes(b"")
    hook.write(16, {"test/loss": 0.5})
    hook.close("done", [Path("here.png"), Path("absent.png")])
    assert [step for step, row in listener.rows if "train/loss" in row] == list(range(every, 17, every))
    assert [step for step, row in listener.rows if "val/loss" in row] == [7, 14, 16]
    assert listener.rows[-1] == (16, {"test/loss": 0.5})
    assert [step for step, _ in listener.rows] == sorted(step for step, _ in listener.rows)
    assert listener.calls == [(Path(), "mine", {"optim.lr": 0.1}), "here.png", "done"]
    assert (hook.states, said) == ({"one": "ok"}, [])


def test_a_run_that_goes_on_is_told_from_its_first_step() -> None:
    first, hook, _ = tracked({})
    fit(first)
    first.hooks[0].close()
    listener = Listener()
    run, hook, _ = tracked({"one": listener}, 2)
    run.state.load_state_dict(first.state.state_dict())
    run.total_steps = 20
    fit(run)
    hook.close("done")
    assert [step for step, row in listener.rows if "train/loss" in row] == list(range(2, 21, 2))
    assert [step for step, row in listener.rows if "val/loss" in row] == [7, 14, 16, 20]
    assert not any("epoch" in row or "step" in row for _, row in listener.rows)


@pytest.mark.parametrize(
    "error", [RuntimeError("no room\nand more"), SystemExit("gone"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("fault", ["start", "metrics", "artifact", "end"])
def test_one_that_fails_is_off_named_once_and_the_others_go_on(fault: str, error: BaseException) -> None:
    bad, good = Listener(fault, error), Listener()
    run, hook, said = tracked({"bad": bad, "good": good})
    fit(run)
    Path("here.png").write_bytes(b"")
    hook.close("done", [Path("here.png")])
    assert run.state.step == 16
    assert len([row for _, row in good.rows if "train/loss" in row]) == 16
    assert good.calls[-2:] == ["here.png", "done"]
    assert hook.states["good"] == "ok"
    reason = "RuntimeError: no room" if isinstance(error, RuntimeError) else type(error).__name__
    assert hook.states["bad"].startswith("failed at step")
    assert reason in hook.states["bad"]
    assert "and more" not in hook.states["bad"]
    assert said == [f"tracker bad {hook.states['bad']}; it is off, the run goes on"]
    assert "done" not in bad.calls


def test_a_failure_is_named_while_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_SECONDS", 0.0)
    heard: list[int] = []

    class Waiting(Hook):
        def step(self, run: Any, loss: Any) -> None:
            time.sleep(0.02)
            if said and not heard:
                heard.append(run.state.step)

    run, hook, said = tracked({"bad": Listener("metrics")}, hooks=[Waiting()])
    fit(run)
    hook.close("done")
    assert heard
    assert heard[0] < 8


def test_one_that_is_slow_holds_no_step_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_SHORT", 0.05)
    slow, quick = Listener("slow metrics"), Listener()
    run, hook, said = tracked({"slow": slow, "quick": quick})
    fit(run)
    assert (run.state.step, slow.rows) == (16, [])
    threading.Timer(0.3, slow.released.set).start()
    hook.close("done")
    assert hook.states == {"slow": "ok", "quick": "ok"}
    assert said == ["waiting for tracker slow, at most 60 s; Ctrl-C gives it up"]
    assert slow.rows == quick.rows
    assert len(slow.rows) == 19


def test_one_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_SHORT", 0.05)
    monkeypatch.setattr(tracking, "_PATIENCE", {"done": 0.1})
    listener = Listener("slow end")
    run, hook, said = tracked({"hung": listener})
    fit(run)
    hook.close("done")
    listener.released.set()
    assert hook.states == {"hung": "failed at step 16: not finished in time, given up"}
    assert said[-1].startswith("tracker hung failed at step 16")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFiniteError("nan"), "failed"),
        (OSError("disk"), "failed"),
        (InterruptedRunError("stop"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (Stopped(InterruptedRunError("stop")), "interrupted"),
    ],
)
def test_how_a_run_ended_is_told_with_all_its_steps(error: BaseException, status: str) -> None:
    class Failing(Hook):
        def step(self, run: Any, loss: Any) -> None:
            if run.state.step == 5:
                raise error

    listener = Listener()
    run, hook, _ = tracked({"one": listener}, hooks=[Failing()])
    with pytest.raises(type(error)), hook.ending():
        fit(run)
    assert [step for step, _ in listener.rows] == [1, 2, 3, 4, 5]
    assert listener.calls[-1] == status
    hook.close("done")
    assert listener.calls[-1] == status


# ------------------------------------------------------------------ from the command line

PLUGIN = """
from trainctl.registry import TRACKERS


@TRACKERS.register("mine")
class Mine:
    '''Writes a line a call.'''

    def __init__(self, path: str = "told", fail: bool = False):
        self.path, self.fail = path, fail

    def _say(self, *words):
        with open(self.path, "a") as file:
            print(*words, file=file)

    def start(self, directory, name, config):
        self._say("start", name, config["seed"], config["optim.lr"])

    def metrics(self, rows):
        if self.fail:
            raise OSError("server gone")
        self._say(*(step for step, values in rows if "train/loss" in values))

    def artifact(self, path):
        self._say(path.name)

    def end(self, status):
        self._say(status)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(PLUGIN)
    return "plugins=[./mine.py]"


def test_one_of_ones_own(trainctl, plugin: str, tmp_path: Path) -> None:
    words = ("tracker=csv", "tracker.mine.name=mine", "tracker.mine.every=6", "name=first")
    outcome = trainctl(*WORDS, plugin, *words, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert record(tmp_path / "run")["trackers"] == {"csv": "ok", "mine": "ok"}
    said = (tmp_path / "told").read_text().split()
    assert said[:4] == ["start", "first", "0", "0.001"]
    assert [word for word in said[4:] if word.isdigit()] == ["6", "12"]
    assert said[-3:] == ["model.safetensors", "config.yaml", "done"]


def test_one_of_ones_own_by_an_option_file_in_a_list(trainctl, plugin: str, tmp_path: Path) -> None:
    put(tmp_path / "conf/tracker/mine.yaml", "# Mine\nmine:\n  name: mine\n  path: elsewhere\n")
    outcome = trainctl(*WORDS, plugin, "tracker=[mine,csv]", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert "from ./conf: tracker/mine" in outcome.out
    assert (tmp_path / "elsewhere").exists()
    assert "mine" in trainctl("ls", "tracker").out


def test_a_run_whose_tracker_fails_is_done_and_says_so(trainctl, plugin: str, tmp_path: Path) -> None:
    words = ("tracker=csv", "tracker.mine.name=mine", "tracker.mine.fail=true")
    outcome = trainctl(*WORDS, plugin, *words, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    state = record(tmp_path / "run")["trackers"]["mine"]
    assert state.startswith("failed at step")
    assert state.endswith("OSError: server gone")
    assert outcome.out.count(f"tracker mine {state}; it is off, the run goes on") == 1
    assert f"tracker: mine {state}" in outcome.out
    log = (tmp_path / "run/train.log").read_text()
    assert f"tracker mine {state}" in log
    assert record(tmp_path / "run")["status"] == "done"
    assert record(tmp_path / "run")["trackers"]["csv"] == "ok"


def test_a_secret_from_the_environment_is_not_told(
    trainctl, plugin: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("SECRET_LR", "0.0625")
    put(tmp_path / "conf/local.yaml", "optim:\n  lr: ${oc.decode:${oc.env:SECRET_LR}}\n")
    outcome = trainctl(*WORDS, plugin, "tracker.mine.name=mine")
    assert "lr 0.0625" in outcome.out
    assert "0.0625" not in (tmp_path / "told").read_text()
    assert "SECRET_LR" in (tmp_path / "told").read_text()


def test_several_in_a_file_and_more_on_the_command_line(trainctl, tmp_path: Path) -> None:
    put(
        tmp_path / "conf/experiment/two.yaml",
        "# @package _global_\ndefaults:\n  - override /tracker: [tensorboard, csv]\n"
        "tracker:\n  csv:\n    every: 5\n",
    )
    shown = trainctl("--cfg", "job", "experiment=two").out
    assert "tensorboard:\n    name: tensorboard" in shown
    assert "csv:\n    name: csv\n    every: 5" in shown
    shown = trainctl("--cfg", "job", "experiment=two", "tracker=tensorboard").out
    assert "name: csv" not in shown
    assert trainctl(*WORDS, "experiment=two", "tracker=tensorboard", "hydra.run.dir=run").code == 0
    assert list(record(tmp_path / "run")["trackers"]) == ["tensorboard"]


@pytest.mark.slow
def test_in_a_sweep_a_list_is_one_choice(trainctl, tmp_path: Path) -> None:
    words = ("seed=1,2", "tracker=[csv,tensorboard]", "hydra.sweep.dir=sweep", "sweep.jobs=1")
    outcome = trainctl("-m", *WORDS, *words)
    assert outcome.code == 0, outcome.err
    for number in "01":
        assert record(tmp_path / "sweep" / number)["trackers"] == {"csv": "ok", "tensorboard": "ok"}


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (["tracker=[csv,mlfow]"], "there is no such option", "did you mean tracker=mlflow?"),
        (["tracker=csvv"], "tracker=csvv: there is no such option", "did you mean tracker=csv?"),
        (["tracker.csvv.name=csvv"], "there is no such tracker", "did you mean csv?"),
        (["tracker=csv", "tracker.csv.evry=3"], "has no argument 'evry'", "tracker.csv.every?"),
        (["tracker=csv", "tracker.csv.every=0"], "must be a whole number of at least 1", ""),
        (["tracker.mlflow.uri=http://x"], "this tracker is not chosen", "add tracker=mlflow"),
        (["tracker.name=csv"], "must be a tracker, not a value", "tracker.LABEL.name=NAME"),
        (["tracker=csv,mlflow"], "several values", "a list is tracker=[csv,mlflow]"),
        (["pictures=perhaps"], "pictures=perhaps: must be true or false", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_named(trainctl, words: list[str], message: str, remedy: str) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert message in outcome.err
    assert remedy in outcome.err
    assert not Path("outputs").exists()


def test_a_list_that_a_file_sets_as_a_value_is_refused(trainctl, tmp_path: Path) -> None:
    put(tmp_path / "conf/local.yaml", "tracker: csv\n")
    outcome = trainctl()
    assert outcome.code == 2
    assert "override /tracker: csv" in outcome.err
