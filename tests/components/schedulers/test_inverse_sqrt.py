"""The inverse square root schedule against its formula."""

from __future__ import annotations

import pytest
import torch

from trainctl.config.settings import Component
from trainctl.training.construct import construct


def test_it_climbs_and_falls_with_the_square_root() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    scheduler = construct(Component("scheduler", "inverse_sqrt", {"warmup": 4}), optimizer=optimizer)
    rates = []
    for _ in range(16):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4:] == pytest.approx([0.4 * (4 / step) ** 0.5 for step in range(5, 17)])


def test_it_trains_by_name(trainctl) -> None:
    assert trainctl("scheduler=inverse_sqrt", "train.max_steps=3", "threads=1").code == 0
