"""What a sweep will cost, before it starts."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.small_run import make_run
from trainctl.config.composer import Composer
from trainctl.sweep.checking import check_jobs
from trainctl.sweep.planning import Plan, make_plan, shape_key
from trainctl.sweep.worker_slots import choose_slots
from trainctl.training.hooks.timing import Timing
from trainctl.training.loop import fit
from trainctl.training.run import Hook


def plan(*words: str) -> Plan:
    return make_plan(check_jobs(Composer(), ["threads=1", *words]))


@pytest.mark.slow
def test_jobs_that_differ_in_numbers_only_are_one_shape() -> None:
    def key(*words: str) -> str:
        return shape_key(Composer().compose(words).config)

    same = key()
    assert key("optim.lr=1") == key("seed=3") == key("train.epochs=50") == key("name=a") == same
    others = [
        key("++model.hidden=[8]"),
        key("train.batch_size=32"),
        key("optim=sgd"),
        key("threads=1"),
        key("guard=full"),
        key("devices=2"),
        key("dataset.val=0.5"),
        key("++optim.amsgrad=true"),
        # Whether milestones can be served depends on them.
        key("scheduler=multi_step", "++scheduler.milestones=[10,15]"),
        key("scheduler=multi_step", "++scheduler.milestones=[15,10]"),
    ]
    assert len({same, *others}) == 11


@pytest.mark.slow
def test_each_shape_is_measured_once_and_added_up() -> None:
    found = plan("model.hidden=[8],[256,256]", "train.epochs=2,4", "sweep.jobs=2")
    assert [len(shape.jobs) for shape in found.shapes] == [2, 2]
    small, large = (shape.measured for shape in found.shapes)
    assert (small.parameters, large.parameters) == (64 * 8 + 8 + 8 * 10 + 10, 64 * 256 + 256 + 65792 + 2570)
    assert 0 < small.step < large.step
    assert small.batches == 20
    assert small.evaluation > 0
    # Weights and Adam's two moments, 4 bytes each, at least.
    assert large.checkpoint > 3 * 4 * large.parameters > small.checkpoint
    assert small.memory > 50e6
    for shape in found.shapes:
        first, second = shape.seconds
        expected = 40 * shape.measured.step + 2 * shape.measured.evaluation
        assert second - first == pytest.approx(expected, rel=1e-6)
    assert found.places.count == 2
    longest, everything = max(max(s.seconds) for s in found.shapes), sum(sum(s.seconds) for s in found.shapes)
    assert max(longest, everything / 2) <= found.seconds <= everything
    assert found.disk == sum(sum(shape.disk) for shape in found.shapes)
    assert found.failing == ()


@pytest.mark.slow
def test_what_would_fail_is_named_before_anything_runs(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("plan", "-m", "loss=mse,cross_entropy", "optim.lr=0.1,0.2", "threads=1")
    assert outcome.code == 1
    assert "would fail: loss=mse lr=0.1: loss=mse does not fit outputs" in outcome.out
    assert "would fail: loss=mse lr=0.2" in outcome.out
    assert "2 jobs, 2 at a time" in outcome.out
    assert "once processes have started" in outcome.out
    assert list(tmp_path.glob("*")) in ([], [tmp_path / ".cache"])
    outcome = trainctl("plan", "-m", "lr=-1,0.1")
    assert outcome.code == 2
    assert "(1 of 2 jobs)" in outcome.err
    assert trainctl("plan", "--fast").code == 2
    assert trainctl("ls", "-m").code == 2


def test_a_job_whose_process_dies_is_one_that_would_fail(tmp_path: Path) -> None:
    plugin = tmp_path / "deadly.py"
    plugin.write_text(
        "import os, signal\nfrom trainctl.registry import MODELS\n\n"
        "@MODELS.register('deadly')\ndef deadly(output_size: int):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    found = plan(f"plugins=[{plugin}]", "model.name=deadly")
    assert found.failing == ((0, "its process was killed by signal 9 (out of memory?)"),)


def test_steps_are_timed_after_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Hook):
        name = "slow"

        def step(self, run, loss) -> None:
            time.sleep(0.05 if run.state.step <= 3 else 0.001)

    import torch

    timing = Timing(torch.device("cpu"))
    fit(make_run(total_steps=35, hooks=[Slow(), timing]))
    assert 0.001 < timing.step_seconds < 0.03


@pytest.mark.slow
def test_each_device_needs_memory(trainctl) -> None:
    one, two = (plan(f"devices={number}").memory for number in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.3)
    assert "devices: steps are timed on one" in trainctl("plan", "devices=2", "threads=1").out


@pytest.mark.slow
def test_other_conf_folders_the_fused_launcher_and_json(trainctl, tmp_path: Path) -> None:
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nmodel:\n  hidden: [8]\n"
    (tmp_path / "more" / "experiment" / "small.yaml").write_text(text)
    words = ("-m", "experiment=small", "seed=1,2", "epochs=1", "threads=1", "hydra/launcher=fused")
    outcome = trainctl("plan", "--config-dir", "more", *words)
    assert outcome.code == 0, outcome.err
    assert "hydra/launcher=fused: measured one by one" in outcome.out
    found = json.loads(trainctl("plan", "--config-dir", "more", *words, "--json").out)
    assert found["shapes"][0]["jobs"] == [0, 1]
    assert found["free"]["disk"] > found["disk"] > 0
    for word in ("--config-dir", "--what"):
        assert trainctl("plan", "-m", "seed=1,2", word).code == 2


def test_the_most_demanding_job_says_how_many_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainctl.sweep.worker_slots.cores", lambda: 8)
    config = Composer().compose([]).config

    def count(*settings: dict[str, object]) -> int:
        return choose_slots([replace(config, **values) for values in settings], 100).count  # type: ignore[arg-type]

    assert count({"device": "cpu", "threads": 1}) == 8
    assert count({"device": "cpu", "threads": 1}, {"device": "cpu", "threads": 4}) == 2
    assert count({"device": "cpu", "threads": 1}, {"device": "cuda:1"}) == 1
