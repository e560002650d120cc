"""TensorBoard, read back with its own reader."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.program import modules_after
from tests.helpers.runs import WORDS, killed_after, record
from tests.helpers.told import Points, told
from trainctl.components.trackers.tensorboard import TensorBoard

pytest.importorskip("tensorboard")


def read(directory: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def points(accumulator: Any) -> Points:
    # They are stored as float32.
    return {
        name: [(event.step, pytest.approx(event.value, rel=1e-6)) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def test_values_and_config_are_there(trainctl, tmp_path: Path) -> None:
    assert trainctl(*WORDS, "tracker=tensorboard", "lr=0.03", "hydra.run.dir=run").code == 0
    accumulator = read(tmp_path / "run")
    assert told(tmp_path / "run") == points(accumulator)
    tags = accumulator.Tags()
    assert tags["images"] == []
    config = accumulator.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    optim.lr: 0.03" in config
    assert accumulator.Tensors("status/text_summary")[0].tensor_proto.string_val == [b"done"]
    hparams = accumulator.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optim.lr" in hparams
    assert record(tmp_path / "run")["trackers"] == {"tensorboard": "ok"}


def test_a_resumed_run_has_each_step_once(trainctl, tmp_path: Path) -> None:
    words = (*WORDS, "tracker=tensorboard", "checkpoint.every_steps=1", "checkpoint.keep_last=99")
    assert trainctl(*words, "hydra.run.dir=run").code == 0
    for step in (8, 5):
        cut = killed_after(tmp_path / "run", step)
        assert trainctl("resume", "cut").code == 0
        assert len(list((cut / "tensorboard").iterdir())) == 2
        assert told(cut) == points(read(cut))


def test_what_is_not_finite_is_told_as_it_is(tmp_path: Path) -> None:
    tracker = TensorBoard()
    tracker.start(tmp_path, "name", {"a": None, "b": [1, 2]})
    tracker.metrics([(1, {"train/loss": math.nan, "lr": math.inf, "a#b": 1.0, "a b": 2.0, "a_b": 3.0})])
    tracker.end("failed")
    accumulator = read(tmp_path)
    assert math.isnan(accumulator.Scalars("train/loss")[0].value)
    assert accumulator.Scalars("lr")[0].value == math.inf
    assert [accumulator.Scalars(name)[0].value for name in ("a#b", "a b", "a_b")] == [1.0, 2.0, 3.0]


@pytest.mark.slow
def test_it_brings_nothing_of_the_compiler(tmp_path: Path) -> None:
    found = modules_after(*WORDS, "tracker=[tensorboard,csv]", cwd=tmp_path)
    assert not {"torch._dynamo", "sympy", "tensorflow"} & found


def test_without_its_package_nothing_is_trained(trainctl, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    outcome = trainctl(*WORDS, "tracker=tensorboard", "hydra.run.dir=run")
    assert outcome.code == 2
    assert "tracker=tensorboard needs the package tensorboard" in outcome.err
    assert "pip install 'trainctl[tensorboard]'" in outcome.err
    assert not (tmp_path / "run/metrics.jsonl").exists()
