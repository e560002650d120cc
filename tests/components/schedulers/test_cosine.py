"""The cosine schedule against its closed form, and no scheduler at all."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trainctl.components.schedulers.cosine import cosine
from trainctl.registry import SCHEDULERS


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


@pytest.mark.parametrize(
    ("total", "warmup"), [(100, 0), (100, 10), (100, 1), (10, 9), (7, 3), (2, 0), (2, 1)]
)
@pytest.mark.parametrize("final", [0.0, 0.1, 0.9])
def test_every_step_takes_the_rate_of_the_closed_form(total: int, warmup: int, final: float) -> None:
    lr = 0.4
    expected = [lr * (step + 1) / warmup for step in range(warmup)]
    last = max(1, total - 1 - warmup)
    expected += [
        lr * final + (lr - lr * final) * (1 + math.cos(math.pi * step / last)) / 2
        for step in range(total - warmup)
    ]
    assert rates(total, warmup, final) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("final", [0.0, 0.25])
@pytest.mark.parametrize("warmup", [0, 5])
def test_it_climbs_to_lr_and_ends_at_its_share(final: float, warmup: int) -> None:
    taken = rates(50, warmup, final)
    assert max(taken) == taken[max(0, warmup - 1)] == 0.4
    assert taken[-1] == pytest.approx(0.4 * final, abs=1e-15)
    assert taken[:warmup] == sorted(taken[:warmup])
    assert taken[warmup:] == sorted(taken[warmup:], reverse=True)
    assert taken[0] > 0


def test_a_run_shorter_than_its_warm_up_ends_while_it_climbs() -> None:
    assert rates(3, 10, 0.0) == pytest.approx([0.04, 0.08, 0.12])


@pytest.mark.parametrize("warmup", [0, 1])
def test_a_run_of_one_step_takes_the_whole_rate(warmup: int) -> None:
    assert rates(1, warmup, 0.0) == [0.4]


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


def test_none_is_no_scheduler() -> None:
    assert SCHEDULERS.load("none")() is None
