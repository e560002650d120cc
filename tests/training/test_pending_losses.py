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
from trainctl.training.pending_losses import fetched, kept
from trainctl.training.run import Hook, Run
from trainctl.ui.display import make_display


def test_values_come_back_in_order_whatever_was_kept() -> None:
    losses = torch.tensor(0.5), 2.0, torch.tensor(float("inf"))
    assert fetched(losses) == [0.5, 2.0, float("inf")]
    assert fetched([kept(torch.tensor(0.25))]) == [0.25]
    assert fetched([]) == []


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
