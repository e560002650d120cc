"""verify trains what several devices have trained again on as many."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ranks import warm_ranks as warm_ranks
from trainctl.analysis import verify
from trainctl.config.settings import Config
from trainctl.config.stored_config import read_config
from trainctl.distributed import launch
from trainctl.training import runtime

pytestmark = pytest.mark.usefixtures("warm_ranks")
FEW = (
    "threads=1", "strategy.timeout=60", "dataset.limit=203", "train.batch_size=32", "display.mode=none",
    "model.dropout=0.2", "train.epochs=1", "checkpoint.every_steps=3", "checkpoint.keep_last=10",
    "hydra.run.dir=run",
)  # fmt: skip
ACCUMULATED = ("train.accumulate=2", "train.batch_size=16")
CUT = ("strategy=fsdp", "strategy.min_parameters=1")


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("devices", "words"),
    # Three add up in an order that depends on where a gradient lies; batch norm has buffers.
    [(3, ("model=cnn",)), (2, CUT), (3, CUT), (2, ("guard=full", "train.ema=0.9", *ACCUMULATED))],
)
def test_a_run_is_identical(devices: int, words: tuple[str, ...], trainctl: Callable[..., Any]) -> None:
    assert trainctl(*FEW, *words, f"devices={devices}").code == 0
    files = sorted(path for path in Path("run").rglob("*"))
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "step 3 → 6: identical (3 steps)" in outcome.out
    assert "identical: 7 of 7 steps re-run, to the last bit" in outcome.out
    assert sorted(path for path in Path("run").rglob("*")) == files


@pytest.mark.slow
def test_each_part_is_trained_on_its_number_of_devices(trainctl: Callable[..., Any]) -> None:
    # Step 5 is saved because training stops there, which other processes cannot foresee.
    assert trainctl(*FEW, "devices=2", "train.max_steps=5").code == 0
    for devices, epochs in ((3, 1), (1, 2)):
        words = ("train.max_steps=null", f"train.epochs={epochs}", f"devices={devices}")
        assert trainctl("resume", "run", *words).code == 0
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "settings changed at step 5: devices: 2 → 3" in outcome.out
    assert "step 3 → 5: identical (2 steps, 1 evaluation)" in outcome.out
    assert "identical: 14 of 14 steps re-run" in outcome.out


def _other_loss() -> None:
    path = Path("run/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[4]["train/loss"] += 1e-6
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _other_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainctl.training.devices import RanksRandomStates

    monkeypatch.setattr(RanksRandomStates, "load_state_dict", lambda self, state: None)


@pytest.mark.parametrize("words", [(), pytest.param(CUT, marks=pytest.mark.slow)])
def test_a_difference_is_named(
    words: tuple[str, ...], trainctl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trainctl(*FEW, *words, "devices=2").code == 0
    with monkeypatch.context() as patch:
        _other_random_state(patch)
        outcome = trainctl("verify", "run", "--steps", "2")
    assert outcome.code == 1
    assert "step 0 → 2: identical (2 steps)" in outcome.out
    assert "step 3 → 5: differs: step 3: not restored as stored: random numbers" in outcome.out
    _other_loss()
    outcome = trainctl("verify", "run", "--steps", "2")
    assert outcome.code == 1
    assert "step 3 → 5: differs: step 5: train/loss" in outcome.out
    assert "step 6 → 7: identical" in outcome.out


def test_a_process_that_fails_is_named(trainctl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainctl(*FEW, "devices=2").code == 0

    def fails(command: list[str], **others: Any) -> subprocess.Popen[bytes]:
        program = "print('no module named torch'); raise SystemExit(3)"
        return subprocess.Popen([sys.executable, "-c", program], **others)

    monkeypatch.setattr(launch, "Process", fails)
    outcome = trainctl("verify", "run")
    assert outcome.code == 3
    assert "trained again on 2 devices: rank 1 ended with exit code 3: no module named torch" in outcome.err
    assert "the run itself is as it was" in outcome.err


def test_a_machine_with_too_few_gpus_says_so(
    trainctl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trainctl(*FEW, "devices=2").code == 0
    record = json.loads(Path("run/run.json").read_text())
    record["environment"]["device"] = "cuda:0 (NVIDIA H100)"
    Path("run/run.json").write_text(json.dumps(record))

    def gpu(name: str) -> Any:
        return type("Device", (), {"type": "cuda"})()

    monkeypatch.setattr(verify.runtime, "choose_device", gpu)
    monkeypatch.setattr(runtime, "_cuda_count", lambda: 1)
    outcome = trainctl("verify", "run")
    assert outcome.code == 4
    assert "trained on 2 GPUs, and this machine has 1: verify it where there are as many" in outcome.err


def test_devices_auto_is_the_recorded_number(trainctl: Callable[..., Any]) -> None:
    assert trainctl(*FEW, "devices=auto", "train.max_steps=1").code == 0
    config: Config = read_config(Path("run/config.yaml"), lambda named: None)
    assert verify._devices(config, {"ranks": [{"rank": 0}, {"rank": 1}]}) == 2
    assert verify._devices(config, {}) == 1
