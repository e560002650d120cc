"""Splits, standardization, the validation data, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch

from trainctl.data.types import Data, Split, Standardize, hold_out, split_rows
from trainctl.errors import ConfigError


def numbered(samples: int = 100) -> Data:
    """A dataset whose inputs are their own numbers."""
    inputs = torch.arange(samples, dtype=torch.float32).unsqueeze(1)
    return Data(
        "numbered",
        "classification",
        Split(inputs, inputs.squeeze(1).long() % 3),
        None,
        (1,),
        3,
        Standardize(),
    )


def numbers(split: Split | None) -> list[int]:
    assert split is not None
    return [int(value) for value in split.inputs.flatten()]


@pytest.mark.parametrize(("val", "count"), [(10, 10), (1, 1), (99, 99), (0.1, 10), (0.25, 25), (0.006, 1)])
def test_held_out_samples_are_as_many_as_asked_and_none_is_lost(val: float | int, count: int) -> None:
    data = hold_out(numbered(), val, split_seed=0)
    kept, held = numbers(data.train), numbers(data.val)
    assert len(held) == count
    assert sorted(kept + held) == list(range(100))


def test_both_parts_keep_the_stored_order_and_their_targets() -> None:
    data = hold_out(numbered(), 30, split_seed=1)
    for split in (data.train, data.val):
        assert split is not None
        assert numbers(split) == sorted(numbers(split))
        assert [number % 3 for number in numbers(split)] == split.targets.tolist()


def test_the_choice_depends_on_the_split_seed_alone() -> None:
    torch.manual_seed(1)
    first = numbers(hold_out(numbered(), 30, split_seed=0).val)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert numbers(hold_out(numbered(), 30, split_seed=0).val) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert numbers(hold_out(numbered(), 30, split_seed=1).val) != first
    assert first != list(range(30))


def test_nothing_held_out_leaves_the_data_alone() -> None:
    data = numbered()
    assert hold_out(data, 0, 0) is data
    assert data.val is None


@pytest.mark.parametrize("val", [100, 101, 10**9, 0.999])
def test_holding_out_everything_is_refused(val: float | int) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.val={val}: holds out \d+ of 100 samples"):
        hold_out(numbered(), val, 0)


def test_a_fraction_that_holds_out_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.val=0\.001: holds out 0 of 100"):
        hold_out(numbered(), 0.001, 0)


@pytest.mark.parametrize("amount", [0.1, 0.9999, 1000])
@pytest.mark.parametrize("total", [1, 2, 4, 100])
def test_the_advised_number_works(total: int, amount: float | int) -> None:
    try:
        split_rows(total, amount, 0, "val")
    except ConfigError as error:
        advised = re.findall(r"dataset\.val=(\d+)", error.problems[0].remedy)
        assert len(advised) == (1 if total == 1 else 2)
        for number in advised:
            split_rows(total, int(number), 0, "val")


@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [(1.0, 0.0, 1.0), (255.0, 0.1307, 0.3081), (16.0, 0.305, 0.376), (2.0, 0.0, 3.0)],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.int64])
def test_standardize_is_its_formula(scale: float, mean: float, std: float, dtype: torch.dtype) -> None:
    raw = torch.arange(256).to(dtype).reshape(4, 8, 8)
    before = raw.clone()
    outputs = Standardize(scale, mean, std)(raw)
    assert outputs.dtype == torch.float32
    assert outputs.shape == raw.shape
    torch.testing.assert_close(outputs.double(), (raw.double() / scale - mean) / std, rtol=2e-6, atol=2e-6)
    assert torch.equal(raw, before)


def test_a_split_knows_its_length_and_gives_parts() -> None:
    split = numbered(10).train
    assert len(split) == 10
    assert numbers(split[2:5]) == [2, 3, 4]
    assert numbers(split[torch.tensor([7, 1])]) == [7, 1]
    assert split[torch.tensor([7, 1])].targets.tolist() == [1, 1]
