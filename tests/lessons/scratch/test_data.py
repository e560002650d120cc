"""Datasets, samplers and loaders against torch.utils.data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import data as torchs

from trainctl.lessons import scratch


def dataset(samples: int = 10) -> scratch.Dataset:
    return scratch.Dataset(torch.randn(samples, 2, 3), torch.arange(samples))


def test_a_dataset_gives_its_samples() -> None:
    each = dataset()
    assert len(each) == 10
    inputs, target = each[4]
    assert torch.equal(inputs, each.inputs[4])  # type: ignore[arg-type]
    assert target == 4
    assert inputs.shape == (2, 3)
    assert scratch.Dataset(["a", "b"], torch.tensor([1, 0]))[1] == ("b", 0)
    with pytest.raises(ValueError, match="3 inputs and 4 targets"):
        scratch.Dataset(torch.ones(3, 1), torch.ones(4))


def test_a_sampler_keeps_the_stored_order_or_the_given_one() -> None:
    assert list(scratch.Sampler(4)) == [0, 1, 2, 3]
    sampler = scratch.Sampler(4, order=iter([3, 1]))
    assert list(sampler) == list(sampler) == [3, 1]
    assert len(sampler) == 2
    with pytest.raises(ValueError, match="an order or a seed"):
        scratch.Sampler(3, order=[0, 1, 2], seed=0)


def test_a_sampler_shuffles_every_time_anew() -> None:
    before = torch.get_rng_state()
    sampler, again = scratch.Sampler(20, seed=3), scratch.Sampler(20, seed=3)
    orders = [list(sampler) for _ in range(3)]
    assert [list(again) for _ in range(3)] == orders
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert list(scratch.Sampler(20, seed=4)) != orders[0]
    theirs = torchs.RandomSampler(range(20), generator=torch.Generator().manual_seed(3))
    assert list(theirs) == orders[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_collate_stacks_each_part() -> None:
    samples = [
        (torch.full((2,), float(number)), torch.tensor(number), torch.ones(1, 1)) for number in range(3)
    ]
    own, other = scratch.collate(samples), torchs.default_collate(samples)
    assert len(own) == 3
    for one, two in zip(own, other, strict=True):
        assert torch.equal(one, two)
        assert one.dtype == two.dtype
    with pytest.raises(ValueError, match="shorter"):
        scratch.collate([(torch.ones(2), torch.ones(1)), (torch.ones(2),)])


@pytest.mark.parametrize(("samples", "batch_size"), [(0, 5), (4, 64), (10, 5), (11, 5)])
def test_a_loader_gives_torchs_batches(samples: int, batch_size: int) -> None:
    each = dataset(samples)
    order = torch.randperm(samples).tolist()
    own: Any = scratch.DataLoader(each, scratch.Sampler(samples, order), batch_size)
    other: Any = torchs.DataLoader(each, batch_size, sampler=order)  # type: ignore[arg-type]
    assert len(own) == len(other)
    for _ in range(2):
        for one, two in zip(own, other, strict=True):
            assert len(one) == 2
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, two, strict=True))


def test_a_loader_asks_for_a_sample_when_its_batch_comes() -> None:
    asked: list[int] = []

    class Noting(scratch.Dataset):
        def __getitem__(self, number: int) -> Any:
            asked.append(number)
            return super().__getitem__(number)

    own = Noting(torch.ones(5, 1), torch.ones(5))
    batches = iter(scratch.DataLoader(own, scratch.Sampler(5), 2, collate_fn=len))
    assert asked == []
    assert next(batches) == 2
    assert asked == [0, 1]
    assert list(batches) == [2, 1]
