"""A group of one process: what a run on several devices does, on the one device that a machine has."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.ranks import assert_same_run, rows
from trainctl.distributed.context import World
from trainctl.training import together

ON = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
FEW = ("threads=1", "dataset.limit=203", "train.batch_size=32", "train.epochs=3", "display.mode=plain")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test form a group; on a GPU its tensors go through NCCL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(together, "launched", lambda: World(0, 1, 0, 1))


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize(
    "words",
    [
        ("strategy=ddp", "optim=adam"),
        (
            "strategy=ddp",
            "optim=sgd_momentum",
            "lr=0.1",
            "train.clip_norm=0.1",
            "guard=full",
            "train.ema=0.9",
        ),
        ("strategy=ddp", "train.accumulate=3", "loss.class_weights=balanced"),
        ("strategy=ddp", "model=cnn"),
        ("strategy=ddp", "train.precision=bf16"),
        ("strategy=fsdp", "strategy.min_parameters=1", "optim=adam"),
        ("strategy=fsdp", "strategy.min_parameters=1", "train.clip_norm=0.1", "train.ema=0.9"),
        ("strategy=fsdp", "strategy.min_parameters=1", "strategy.offload=true", "train.clip_norm=0.1"),
    ],
    ids=" ".join,
)
def test_every_number_is_that_of_one_device(
    words: tuple[str, ...], device: str, trainctl: Callable[..., Any], alone: None, monkeypatch: Any
) -> None:
    outcome = trainctl(*FEW, *words, f"device={device}", "hydra.run.dir=group")
    assert outcome.code == 0, outcome.err
    assert f"{words[0].partition('=')[2]} on 1 devices" in outcome.out
    monkeypatch.setattr(together, "launched", lambda: None)
    outcome = trainctl(*FEW, *words, f"device={device}", "train.capture=false", "hydra.run.dir=one")
    assert outcome.code == 0, outcome.err
    # Convolutions on a GPU do not repeat to the last bit, and batch norm makes more of the difference.
    rough = "train.precision=bf16" in words or ("model=cnn" in words and device == "cuda")
    assert_same_run("one", "group", 1e-2 if rough else 1e-4)


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_stopped_run_goes_on_exactly(
    strategy: str, device: str, trainctl: Callable[..., Any], alone: None, monkeypatch: Any
) -> None:
    words = (*FEW, f"strategy={strategy}", f"device={device}", "checkpoint.every_steps=2")
    for run, more in (("whole", ()), ("parts", ("train.max_steps=9",))):
        outcome = trainctl(*words, *more, f"hydra.run.dir={run}")
        assert outcome.code == 0, outcome.err
    outcome = trainctl("resume", "parts", "train.max_steps=null")
    assert outcome.code == 0, outcome.err
    whole, parts = (
        {row["step"]: row["train/loss"] for row in rows(run) if "train/loss" in row}
        for run in ("whole", "parts")
    )
    assert parts == whole
    monkeypatch.setattr(together, "launched", lambda: None)
    outcome = trainctl("eval", "parts")
    assert outcome.code == 0, outcome.err
