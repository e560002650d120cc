"""Made-up data: the same every time, of the shape asked for, and learnable."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainctl.components.datasets.synthetic import synthetic
from trainctl.components.tasks._base import with_targets
from trainctl.errors import ConfigError

TASKS: list[Any] = ["classification", "regression"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shape", [[20], [3, 4, 4], [1]])
def test_sizes_types_and_ranges(task: Any, shape: list[int]) -> None:
    data = synthetic(task, samples=30, test_samples=7, shape=shape, outputs=4)
    assert data.test is not None
    assert (len(data.train), len(data.test), data.val) == (30, 7, None)
    assert data.input_shape == tuple(shape)
    assert data.output_size == 4
    for split in (data.train, data.test):
        assert split.inputs.shape == (len(split), *shape)
        assert split.inputs.dtype == torch.float32
        if task == "classification":
            assert split.targets.dtype == torch.int64
            assert split.targets.shape == (len(split),)
        else:
            assert split.targets.dtype == torch.float32
            assert split.targets.shape == (len(split), 4)
    assert data.task == task
    assert len(data.classes) == (4 if task == "classification" else 0)
    with_targets(data)


@pytest.mark.parametrize("task", TASKS)
def test_only_its_own_seed_decides_the_data(task: Any) -> None:
    torch.manual_seed(1)
    first = synthetic(task)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = synthetic(task), synthetic(task, data_seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert torch.equal(first.train.targets, again.train.targets)
    assert not torch.equal(first.train.inputs, other.train.inputs)


def test_classes_can_be_learned_by_a_linear_map() -> None:
    """Least squares on one-hot targets does far better than chance on samples it has not seen."""
    data = synthetic(noise=0.0)
    assert data.test is not None
    wanted = torch.nn.functional.one_hot(data.train.targets).float()
    weight = torch.linalg.lstsq(data.train.inputs, wanted).solution
    guessed = (data.test.inputs @ weight).argmax(1)
    assert (guessed == data.test.targets).float().mean() > 0.6


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 0.9999, 1.0), (0.1, 0.98, 0.995), (1.0, 0.4, 0.6)])
def test_the_noise_is_the_share_that_cannot_be_learned(noise: float, low: float, high: float) -> None:
    data = synthetic("regression", samples=4000, outputs=3, noise=noise)
    assert data.test is not None
    weight = torch.linalg.lstsq(data.train.inputs, data.train.targets).solution
    error = (data.test.inputs @ weight - data.test.targets).square().mean()
    assert low <= 1 - (error / data.test.targets.var()).item() <= high


def test_one_class_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.outputs=1"):
        synthetic(outputs=1)
    assert synthetic("regression", outputs=1).train.targets.shape == (2000, 1)


@pytest.mark.parametrize(
    ("targets", "found"),
    [("binary", {0.0, 1.0}), ("sign", {-1.0, 1.0}), ("labels", {-1.0, 0.0, 1.0, 2.0})],
)
def test_targets_of_the_losses_that_take_only_some_values(targets: Any, found: set[float]) -> None:
    data, plain = (
        synthetic("regression", samples=50, outputs=3, targets=kind) for kind in (targets, "values")
    )
    made, above = data.train.targets, plain.train.targets > 0
    assert set(made.unique().tolist()) == found
    if targets == "labels":
        assert made.dtype == torch.int64
        for row, wanted in zip(made.tolist(), above.tolist(), strict=True):
            assert [each for each in row if each >= 0] == [i for i, value in enumerate(wanted) if value]
            assert sorted(row, key=lambda each: each < 0) == row  # the padding comes last
    else:
        assert torch.equal(made == 1, above)


def test_shares_sum_to_one_and_classes_take_no_other_targets() -> None:
    shares = synthetic("regression", outputs=3, targets="shares").train.targets
    assert torch.allclose(shares.sum(1), torch.ones(2000))
    assert float(shares.min()) > 0
    with pytest.raises(ConfigError, match="class numbers"):
        synthetic(targets="binary")
