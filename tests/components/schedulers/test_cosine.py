"""The cosine schedule against its closed form, and no scheduler at all."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trainctl.components.schedulers.cosine import cosine


def rates(total: int, warmup: int, final: float, lr: float = 0.4, steps: int | None = None) -> list[float]:
    """The learning rate that each step takes."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = cosine(optimizer, total, warmup, final)
    taken = []
    for _ in range(steps or total):
        taken.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return taken


@pytest.mark.parametrize(("total", "warmup"), [(100, 0), (100, 10), (10, 9), (2, 1), (1, 0), (1, 1), (3, 10)])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_every_step_takes_the_rate_of_the_closed_form(total: int, warmup: int, final: float) -> None:
    lr = 0.4
    expected = [lr * (step + 1) / warmup for step in range(warmup)]
    last = max(1, total - 1 - warmup)
    expected += [
        lr * final + (lr - lr * final) * (1 + math.cos(math.pi * step / last)) / 2
        for step in range(total - warmup)
    ]
    assert rates(total, warmup, final) == pytest.approx(expected[:total], rel=1e-12, abs=1e-15)


def test_beyond_the_end_the_rate_stays() -> None:
    assert rates(10, 0, 0.1, steps=14)[9:] == pytest.approx([0.04] * 5)


def test_each_group_has_its_own_peak() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    scheduler = cosine(optimizer, 11)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05])
