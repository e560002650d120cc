"""A run on several devices is the run on one: losses, evaluations, weights, decisions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.ranks import assert_same_run, rows, weights
from tests.helpers.ranks import warm_ranks as warm_ranks
from trainctl.distributed import launch

pytestmark = pytest.mark.usefixtures("warm_ranks")
FEW = (
    "threads=1",
    "strategy.timeout=60",
    "dataset.limit=203",
    "train.batch_size=32",
    "train.epochs=2",
    "display.mode=none",
)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("words", "devices"),
    [
        (("optim=adam",), 2),
        (("optim=sgd_momentum", "lr=0.1", "train.clip_norm=0.1"), 3),
        (("optim=adam",), 3),
        # The windows of the last epoch's end, and the batches in them, are smaller than the others.
        (("train.accumulate=3", "loss.class_weights=balanced"), 2),
        (("train.accumulate=2", "train.batch_size=4", "dataset.limit=61"), 3),
        # The last batch has one sample: fewer than devices.
        (("loss.class_weights=balanced", "dataset.limit=191"), 3),
        (("train.ema=0.9", "scheduler=reduce_on_plateau", "scheduler.patience=0"), 2),
        (("model.freeze=[layers.0.*]", "optim=adamw"), 2),
        (("guard=full", "train.patience=1", "lr=0.03", "train.epochs=5"), 2),
        (("dataset=thermometer", "model=linear", "loss=huber", "train.batch_size=3", "train.epochs=4"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_every_number_is_that_of_one_device(
    words: tuple[str, ...], devices: int, trainctl: Callable[..., Any]
) -> None:
    given = [*FEW, *words]
    for run, count in (("one", 1), ("several", devices)):
        outcome = trainctl(*given, f"devices={count}", f"hydra.run.dir={run}")
        assert outcome.code == 0, outcome.err
    assert_same_run("one", "several")


@pytest.mark.slow
def test_gradients_averaged_by_hand_are_those_of_ddp_bit_for_bit(trainctl: Callable[..., Any]) -> None:
    for run, loop in (("hand", "data_parallel"), ("torch", "optimizer")):
        outcome = trainctl(*FEW, "model.dropout=0.2", "devices=2", f"loop={loop}", f"hydra.run.dir={run}")
        assert outcome.code == 0, outcome.err
    assert_same_run("hand", "torch", tolerance=0.0)
    for name, tensor in weights("hand").items():
        assert torch.equal(tensor, weights("torch")[name])


@pytest.fixture
def images(tmp_path: Path) -> str:
    """A folder of 40 tiny pictures in two classes, loaded one by one."""
    from PIL import Image

    for name, shade in (("dark", 40), ("light", 200)):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(20):
            Image.new("L", (4, 4), shade + number).save(folder / f"{number}.png")
    return str(tmp_path / "images")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_samples_loaded_one_by_one_are_loaded_by_the_process_that_needs_them(
    workers: int, images: str, trainctl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if workers:
        monkeypatch.setattr(launch, "Process", subprocess.Popen)
    given = (
        "threads=1", "strategy.timeout=60", "dataset=image_folder", f"dataset.path={images}",
        "dataset.val=0.2", "dataset.size=[4,4]", "dataset.cache=false", "loader=workers",
        f"loader.workers={workers}", "dataset.augment=[RandomHorizontalFlip]", "train.batch_size=5",
        "train.epochs=2",
    )  # fmt: skip
    for run, count in (("one", 1), ("several", 2)):
        outcome = trainctl(*given, f"devices={count}", f"hydra.run.dir={run}")
        assert outcome.code == 0, outcome.err
    assert_same_run("one", "several")


@pytest.mark.quick(1)
@pytest.mark.parametrize(("before", "after"), [(3, 3), (2, 1), (1, 2), (2, 3)])
def test_a_run_resumes_on_any_number_of_devices(
    before: int, after: int, trainctl: Callable[..., Any]
) -> None:
    given = (*FEW, "checkpoint.every_steps=3", "checkpoint.keep_last=10")
    assert trainctl(*given, f"devices={before}", "hydra.run.dir=whole").code == 0
    assert trainctl(*given, f"devices={before}", "train.max_steps=10", "hydra.run.dir=parts").code == 0
    outcome = trainctl("resume", "parts", "train.max_steps=null", f"devices={after}")
    assert outcome.code == 0, outcome.err
    assert_same_run("whole", "parts")
    if before == after:
        for name, tensor in weights("whole").items():
            assert torch.equal(tensor, weights("parts")[name])


FAULTY = """
import math, os, signal
import torch
from torch import nn
from trainctl.registry import MODELS

@MODELS.register("faulty")
class Faulty(nn.Sequential):
    def __init__(self, input_shape, output_size, fault: str = "", rank: str = "1"):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(input_shape), output_size))
        self.fault, self.own, self.calls = fault, os.environ.get("RANK", "0") == rank, 0

    def forward(self, inputs):
        self.calls += self.training
        if self.own and self.fault != "none" and self.calls == 12:
            if self.fault == "not_finite":
                return super().forward(inputs) * math.nan
            if self.fault == "raise":
                raise ValueError("the model gave up")
            os.kill(os.getpid(), getattr(signal, self.fault))
        return super().forward(inputs)
"""


@pytest.fixture
def faulty(trainctl: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Train a model whose rank 1 meets a fault in its twelfth forward pass."""
    (tmp_path / "faulty.py").write_text(FAULTY)

    def call(fault: str, *words: str) -> Any:
        given = (*FEW, "plugins=[./faulty.py]", "model.name=faulty", f"+model.fault={fault}", "devices=2")
        return trainctl(*given, "checkpoint.every_steps=2", "train.epochs=4", "hydra.run.dir=run", *words)

    return call


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("raise", 2, "faulty.py line 19: ValueError: the model gave up"),
        ("SIGKILL", 8, "rank 1 was killed by signal 9"),
        pytest.param("SIGSTOP", 8, "did not answer for 3 s", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_ends_all(fault: str, code: int, says: str, faulty: Callable[..., Any]) -> None:
    outcome = faulty(fault, "strategy.timeout=3")
    assert outcome.code == code, outcome.err
    assert says in outcome.err
    record = json.loads(Path("run/run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", code)
    assert says in record["reason"]


def test_a_rank_that_does_not_even_start_is_named(
    trainctl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(command: list[str], **others: Any) -> subprocess.Popen[bytes]:
        program = "print('no module named torch'); raise SystemExit(3)"
        return subprocess.Popen([sys.executable, "-c", program], **others)

    monkeypatch.setattr(launch, "Process", fails)
    outcome = trainctl(*FEW, "devices=2", "hydra.run.dir=run")
    assert outcome.code == 3
    assert "rank 1 ended with exit code 3: no module named torch" in outcome.err


@pytest.mark.slow
def test_a_model_with_parameters_that_are_not_used(trainctl: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "idle.py").write_text(IDLE)
    given = (*FEW, "plugins=[./idle.py]", "model.name=idle", "devices=2")
    outcome = trainctl(*given, "hydra.run.dir=run")
    assert outcome.code == 2
    assert "strategy.find_unused=true" in outcome.err
    assert trainctl(*given, "strategy.find_unused=true", "hydra.run.dir=again").code == 0


IDLE = """
from torch import nn
from trainctl.registry import MODELS

@MODELS.register("idle")
class Idle(nn.Module):
    def __init__(self, input_shape, output_size):
        super().__init__()
        self.used, self.idle = nn.Linear(64, output_size), nn.Linear(3, 3)

    def forward(self, inputs):
        return self.used(inputs.flatten(1))
"""


def test_after_a_fault_the_run_goes_on(faulty: Callable[..., Any], trainctl: Callable[..., Any]) -> None:
    assert faulty("SIGKILL").code == 8
    outcome = trainctl("resume", "run", "+model.fault=none", "--trust-plugins")
    assert outcome.code == 0, outcome.err
    assert rows("run")[-1]["step"] == 28


def test_a_signal_to_any_rank_stops_all_at_the_same_step(
    faulty: Callable[..., Any], trainctl: Callable[..., Any]
) -> None:
    outcome = faulty("SIGTERM")
    assert outcome.code == 143, outcome.err
    stopped = sorted(Path("run/checkpoints").glob("step-*"))[-1].name
    assert stopped > "step-00000009"
    assert f"saved in run/checkpoints/{stopped}" in outcome.err
    assert "terminated: the run was saved" in (Path("run/logs/rank-1.log")).read_text()


def test_a_bad_loss_of_one_slice_stops_all_and_the_whole_batch_is_kept(faulty: Callable[..., Any]) -> None:
    outcome = faulty("not_finite")
    assert outcome.code == 6, outcome.err
    capsule = next(Path("run/capsules").iterdir())
    assert capsule.name == "step-00000011"
    assert load_file(capsule / "training.safetensors")["batch.inputs"].shape[0] == 32


WHOLE = """
from torch import nn
from trainctl.registry import MODELS

@MODELS.register("whole")
class Whole(nn.Linear):
    several_devices = False

    def __init__(self):
        super().__init__(4, 1)
"""


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("model=scratch_mlp",),
            "model=scratch_mlp: not on several devices (devices=2), because it is no torch.nn",
        ),
        (("plugins=[./whole.py]", "model.name=whole"), "as it says itself: several_devices = False"),
        (("train.batch_size=1",), "train.batch_size=1: not on several devices (devices=2)"),
        (("profile=true",), "profile=true: not on several devices (devices=2)"),
    ],
)
def test_what_needs_one_device_is_refused(
    words: tuple[str, ...], says: str, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "whole.py").write_text(WHOLE)
    outcome = trainctl(*FEW, "devices=2", "hydra.run.dir=run", *words)
    assert outcome.code == 2, outcome.err
    assert says in outcome.err
