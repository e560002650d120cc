"""The components made of ``scratch``: equal to those made of torch, and trained by the standard loop."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from trainctl.components.loaders.resident import ResidentLoader
from trainctl.components.loaders.workers import WorkersLoader
from trainctl.data import ItemSplit, Split, Standardize
from trainctl.data.augmentation import Augment
from trainctl.errors import ConfigError
from trainctl.lessons import scratch
from trainctl.lessons.loaders.scratch import ScratchLoader
from trainctl.registry import MODELS, OPTIMIZERS
from trainctl.registry import protocols as protocol
from trainctl.registry.protocols import Cursor

CPU = torch.device("cpu")
PAIRS = [
    ("scratch_linear", "linear", {}),
    ("scratch_linear", "linear", {"bias": False}),
    ("scratch_mlp", "mlp", {"hidden": []}),
    ("scratch_mlp", "mlp", {"hidden": [7, 6, 5], "dropout": 0.3}),
]


def make(registry: Any, name: str, *arguments: Any, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    return registry.load(name)(*arguments, **more)


def equal(first: Any, second: Any) -> bool:
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    return all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)


# ------------------------------------------------------------------ models


@pytest.mark.parametrize(("name", "stock", "arguments"), PAIRS)
def test_a_model_is_the_one_made_of_torch(name: str, stock: str, arguments: dict[str, Any]) -> None:
    shape = (3, 4, 2)
    ours, theirs = (make(MODELS, each, shape, 4, **arguments) for each in (name, stock))
    assert protocol.missing(protocol.Model, ours) == []
    assert equal(ours, theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    inputs = torch.randn(6, *shape)
    for training in (True, False):
        results = []
        for model in (ours, theirs):
            model.train(training)
            torch.manual_seed(2)
            results.append(model(inputs))
        assert torch.equal(*results)
        assert results[0].shape == (6, 4)


# ------------------------------------------------------------------ the loader

STANDARD = Standardize(255.0, 0.5, 0.25)


def split(samples: int = 23) -> Split:
    inputs = torch.arange(samples * 4, dtype=torch.int64).remainder(256).to(torch.uint8)
    return Split(inputs.reshape(samples, 1, 2, 2), torch.arange(samples))


def same(first: Any, second: Any) -> bool:
    batches = list(zip(first, second, strict=True))
    return all(
        torch.equal(one, two) and one.dtype == two.dtype
        for ours, theirs in batches
        for one, two in zip(ours[:2], theirs[:2], strict=True)
    )


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize(("samples", "batch_size"), [(5, 5), (23, 5), (4, 64)])
def test_batches_are_those_of_resident(samples: int, batch_size: int, seed: int | None) -> None:
    ours, theirs = (
        loader(split(samples), STANDARD, batch_size, CPU, seed) for loader in (ScratchLoader, ResidentLoader)
    )
    assert protocol.missing(protocol.Loader, ours) == []
    assert (len(ours), ours.samples) == (len(theirs), theirs.samples)
    for epoch in (0, 2):
        for position in {0, min(batch_size, samples), samples}:
            assert same(ours.batches(Cursor(epoch, position)), theirs.batches(Cursor(epoch, position)))


def test_augmentation_comes_before_the_transform_with_numbers_and_epoch() -> None:
    class Brighter(Augment):
        def __call__(self, inputs: Tensor, index: Tensor, epoch: int) -> Tensor:
            assert inputs.dtype == torch.uint8
            return inputs + (index + epoch).to(torch.uint8).reshape(-1, 1, 1, 1)

    augment = Brighter([], 0, len(split()))
    ours, theirs = (
        loader(split(), STANDARD, 5, CPU, 0, augment) for loader in (ScratchLoader, ResidentLoader)
    )
    for position in (0, 10):
        assert same(ours.batches(Cursor(3, position)), theirs.batches(Cursor(3, position)))
    assert not same(ours.batches(Cursor(3)), ScratchLoader(split(), STANDARD, 5, CPU, 0).batches(Cursor(3)))


def test_a_batch_is_no_window_into_the_storage() -> None:
    data = Split(torch.randn(10, 3), torch.arange(10))
    before = data.inputs.clone()
    for seed in (0, None):
        for batch, targets, *_ in ScratchLoader(data, nn.Identity(), 1, CPU, seed).batches():
            batch.mul_(0)
            targets.mul_(0)
    assert torch.equal(data.inputs, before)
    assert data.targets.tolist() == list(range(10))


def load_noisy(item: int) -> Tensor:
    noise = random.random() + numpy.random.rand() + float(torch.rand(1))
    return torch.full((2,), item + noise)


def items(load: Any, samples: int = 11) -> ItemSplit:
    return ItemSplit([100 + number for number in range(samples)], torch.arange(samples), load)


@pytest.mark.parametrize("seed", [0, None])
def test_what_loading_draws_is_decided_as_the_workers_have_it(seed: int | None) -> None:
    ours = ScratchLoader(items(load_noisy), nn.Identity(), 4, CPU, seed)
    theirs = WorkersLoader(items(load_noisy), nn.Identity(), 4, CPU, seed, workers=0)
    for epoch, position in ((0, 0), (1, 4), (1, 0)):
        assert same(ours.batches(Cursor(epoch, position)), theirs.batches(Cursor(epoch, position)))
    assert not same(ours.batches(Cursor(0)), ours.batches(Cursor(1)))


def test_loading_leaves_the_random_numbers_of_the_run_alone() -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]

    before = states()
    batches = ScratchLoader(items(load_noisy), nn.Identity(), 4, CPU, 0).batches()
    next(batches)
    assert states() == before
    list(batches)
    assert states() == before


def load_wrong(item: int) -> Any:
    if item == 103:
        raise OSError("no such picture\nand more")
    return torch.ones(2)


def load_number(item: int) -> Any:
    return item


def load_shapes(item: int) -> Tensor:
    return torch.ones(3 if item == 103 else 2)


def load_types(item: int) -> Tensor:
    return torch.ones(2, dtype=torch.uint8 if item == 103 else torch.float32)


def load_refused(item: int) -> Tensor:
    raise ConfigError("the file is too old")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (load_wrong, "^103 cannot be loaded: OSError: no such picture"),
        (load_number, "100 was loaded as int, not as a tensor"),
        (load_shapes, r"103 has shape \(3,\) torch.float32, others have \(2,\) torch.float32"),
        (load_types, r"103 has shape \(2,\) torch.uint8, others have"),
        (load_refused, "^the file is too old"),
    ],
)
def test_a_sample_that_cannot_serve_is_named(load: Any, message: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=message):
        list(ScratchLoader(items(load), nn.Identity(), 4, CPU, None).batches())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_batches_are_made_on_the_gpu() -> None:
    device = torch.device("cuda")
    ours, theirs = (loader(split(), STANDARD, 5, device, 0) for loader in (ScratchLoader, ResidentLoader))
    assert same(ours.batches(Cursor(1)), theirs.batches(Cursor(1)))
    assert all(inputs.is_cuda and targets.is_cuda for inputs, targets, *_ in ours.batches())


# ------------------------------------------------------------------ by name


def test_torchs_modules_are_no_part_of_them() -> None:
    for name in ("scratch_linear", "scratch_mlp"):
        model = MODELS.load(name)((5,), 3)
        assert isinstance(model, scratch.Module)
        assert not any(isinstance(each, nn.Module) for _, each in protocol.named_modules(model))
    for name in ("scratch_sgd", "scratch_adam"):
        optimizer = OPTIMIZERS.load(name)([torch.ones(1)])
        assert not isinstance(optimizer, torch.optim.Optimizer)
        assert protocol.missing(protocol.Optimizer, optimizer) == []
