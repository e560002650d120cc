"""Losses that are read later, and what is kept of them meanwhile."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.test_loop import make_run
from trainctl.training.hooks.console import Console
from trainctl.training.hooks.metrics_log import MetricsLog
from trainctl.training.loop import fit
from trainctl.training.pending_losses import PendingLosses, Transfer, fetched, kept
from trainctl.training.run import Hook, Run
from trainctl.ui.display import make_display


def test_values_come_back_in_order_whatever_was_kept() -> None:
    losses = torch.tensor(0.5), 2.0, torch.tensor(float("inf"))
    assert fetched(losses) == [0.5, 2.0, float("inf")]
    assert fetched([kept(torch.tensor(0.25))]) == [0.25]
    assert fetched([]) == []


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_transfer_has_the_values_of_its_time(device: str) -> None:
    values = torch.tensor([1.0, 2.0], device=device)
    transfer = Transfer(values)
    values.zero_()
    assert transfer.read().tolist() == [1.0, 2.0]
    assert transfer.has_arrived
    assert transfer.read().device.type == "cpu"


@pytest.mark.parametrize("kind", ["floats", "tensors", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_each_loss_arrives_once_and_in_order(kind: str) -> None:
    def loss(step: int) -> Any:
        return (
            float(step)
            if kind == "floats"
            else torch.tensor(float(step), device=kind.replace("tensors", "cpu"))
        )

    pending: PendingLosses[int] = PendingLosses()
    arrived: list[tuple[int, float]] = []
    early = 0
    for step in range(1000):
        pending._steps.append(step)
        pending._losses.append(loss(step))
        came = pending.arrived(256, 60.0)
        early += bool(came)
        arrived += came
    assert early, "some before the end"
    arrived += pending.take()
    assert arrived == [(step, float(step)) for step in range(1000)]
    assert pending.take() == []


@pytest.mark.gpu
def test_on_a_gpu_losses_are_sent_without_a_wait() -> None:
    pending: PendingLosses[int] = PendingLosses()
    torch.ones(8, device="cuda").sum().item()  # the device is awake
    slow = torch.rand(4096, 4096, device="cuda")
    for _ in range(200):
        slow = (slow @ slow).clamp(-1, 1)
    pending.add(0, slow.sum())
    assert pending.arrived(1, 60.0) == [], "the device cannot have done this yet"
    assert [step for step, _ in pending.take()] == [0]


class Watching(Hook):
    """How many losses of earlier steps are still alive after each step."""

    def __init__(self) -> None:
        self.losses: list[weakref.ref[Tensor]] = []
        self.alive: list[int] = []

    def step(self, run: Run, loss: Tensor) -> None:
        self.alive.append(sum(each() is not None for each in self.losses))
        self.losses.append(weakref.ref(loss))


@pytest.mark.parametrize("makes", [MetricsLog, Console], ids=["log", "console"])
def test_on_the_cpu_no_tensor_is_kept(makes: Any, tmp_path: Path) -> None:
    hook = MetricsLog(tmp_path / "log") if makes is MetricsLog else Console(make_display("none", None), 1)
    watching = Watching()
    hooks: Sequence[Hook] = [hook, watching]
    fit(make_run(total_steps=30, samples=400, hooks=hooks))
    if isinstance(hook, MetricsLog):
        hook.close()
    assert max(watching.alive) <= 1, "only the loop's own variable holds one"
