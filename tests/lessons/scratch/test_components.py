"""The components made of ``scratch``: equal to those made of torch, and trained by the standard loop."""

from __future__ import annotations

import copy
import random
from contextlib import nullcontext
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from trainctl.components.loaders.resident import ResidentLoader
from trainctl.components.loaders.workers import WorkersLoader
from trainctl.data import ItemSplit, Split, Standardize
from trainctl.errors import ConfigError
from trainctl.lessons import scratch
from trainctl.lessons.loaders.scratch import ScratchLoader
from trainctl.registry import LOADERS, LOSSES, MODELS, OPTIMIZERS
from trainctl.registry import protocols as protocol
from trainctl.training.loop import evaluate, train_step

CPU = torch.device("cpu")
PAIRS = [
    ("scratch_linear", "linear", {}),
    ("scratch_linear", "linear", {"bias": False}),
    ("scratch_mlp", "mlp", {}),
    ("scratch_mlp", "mlp", {"hidden": []}),
    ("scratch_mlp", "mlp", {"hidden": [7, 6, 5], "dropout": 0.3}),
]
SHAPES = [(5,), (1, 8, 8), (3, 4, 2)]


def make(registry: Any, name: str, *arguments: Any, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    return registry.load(name)(*arguments, **more)


def equal(first: Any, second: Any) -> bool:
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    return all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)


# ------------------------------------------------------------------ models


@pytest.mark.parametrize(("name", "stock", "arguments"), PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_is_the_one_made_of_torch(
    name: str, stock: str, arguments: dict[str, Any], shape: tuple[int, ...]
) -> None:
    ours, theirs = (make(MODELS, each, shape, 4, **arguments) for each in (name, stock))
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
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize(("name", "stock", "arguments"), PAIRS)
def test_a_model_meets_the_protocol_and_can_be_copied(
    name: str, stock: str, arguments: dict[str, Any]
) -> None:
    model = make(MODELS, name, (5,), 3, **arguments)
    assert isinstance(model, protocol.Model)
    assert protocol.missing(protocol.Model, model) == []
    twin = copy.deepcopy(model)
    assert equal(model, twin)
    assert all(one is not two for one, two in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_text_of_a_model_tells_its_sizes() -> None:
    texts = {repr(MODELS.load("scratch_mlp")((5,), 3, hidden)) for hidden in ([4], [5], [4, 4])}
    assert len(texts) == 3
    assert "in_features=5, out_features=4, bias=True" in repr(MODELS.load("scratch_mlp")((5,), 3, [4]))


# ------------------------------------------------------------------ losses and optimizers


@pytest.mark.parametrize(
    ("name", "stock"), [("scratch_mse", "mse"), ("scratch_cross_entropy", "cross_entropy")]
)
def test_a_loss_compares_what_torchs_compares(name: str, stock: str) -> None:
    """Cross-entropy to some units in the last place: torch's kernel sums in another order."""
    ours, theirs = LOSSES.load(name)(), LOSSES.load(stock)()
    assert ours.target == theirs.target
    assert isinstance(ours, protocol.Criterion)
    assert protocol.missing(protocol.Criterion, ours) == []
    outputs = torch.randn(9, 4)
    targets = torch.randn(9, 4) if ours.target == "value" else torch.randint(4, (9,))
    torch.testing.assert_close(ours(outputs, targets), theirs(outputs, targets), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "stock", "arguments"),
    [
        ("scratch_sgd", "sgd", {}),
        ("scratch_sgd", "sgd_momentum", {"lr": 0.05, "momentum": 0.9}),
        ("scratch_adam", "adam", {}),
        ("scratch_adam", "adam", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6}),
    ],
)
def test_a_run_is_the_one_made_of_torch(name: str, stock: str, arguments: dict[str, Any]) -> None:
    """The standard step, with model, loss and optimizer from scratch and with torch's, to the last bit."""
    results = []
    for model_name, loss, optimizer_name, more in (
        ("scratch_mlp", "scratch_mse", name, {}),
        ("mlp", "mse", stock, {"fused": False}),
    ):
        model = make(MODELS, model_name, (5,), 2, dropout=0.2)
        criterion = LOSSES.load(loss)()
        optimizer = OPTIMIZERS.load(optimizer_name)(model.parameters(), **arguments, **more)
        assert isinstance(optimizer, protocol.Optimizer)
        assert protocol.missing(protocol.Optimizer, optimizer) == []
        inputs, targets = torch.randn(8, 5), torch.randn(8, 2)
        for _ in range(6):
            train_step(model, criterion, optimizer, inputs, targets, nullcontext())
        results.append(model)
    assert equal(*results)
    assert not equal(results[0], make(MODELS, "scratch_mlp", (5,), 2, dropout=0.2))


@pytest.mark.parametrize("model_name", ["scratch_mlp", "mlp"])
@pytest.mark.parametrize("loss", ["scratch_cross_entropy", "cross_entropy"])
@pytest.mark.parametrize("optimizer_name", ["scratch_sgd", "sgd", "scratch_adam", "adam"])
def test_any_mix_learns(model_name: str, loss: str, optimizer_name: str) -> None:
    model = make(MODELS, model_name, (4,), 2, hidden=[16])
    criterion = LOSSES.load(loss)()
    optimizer = OPTIMIZERS.load(optimizer_name)(model.parameters(), lr=0.05)
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    targets = (inputs.sum(1) > 0).long()
    first = evaluate(model, criterion, [(inputs, targets)], {}, nullcontext())["loss"]
    for _ in range(100):
        train_step(model, criterion, optimizer, inputs, targets, nullcontext())
    assert model.training
    assert evaluate(model, criterion, [(inputs, targets)], {}, nullcontext())["loss"] < 0.5 * first


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
        for one, two in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("samples", [1, 4, 5, 6, 23])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("seed", [0, 3, None])
def test_batches_are_those_of_resident(samples: int, batch_size: int, seed: int | None) -> None:
    ours, theirs = (
        loader(split(samples), STANDARD, batch_size, CPU, seed) for loader in (ScratchLoader, ResidentLoader)
    )
    assert (len(ours), ours.samples) == (len(theirs), theirs.samples)
    for epoch in (0, 2):
        for position in {0, min(batch_size, samples), samples}:
            assert same(ours.batches(epoch, position), theirs.batches(epoch, position))


def test_the_order_changes_with_the_epoch() -> None:
    loader = ScratchLoader(split(), STANDARD, 5, CPU, 0)
    assert not same(loader.batches(0), loader.batches(1))
    assert same(loader.batches(1), loader.batches(1))


def test_targets_of_regression_keep_their_shape() -> None:
    data = Split(torch.randn(7, 3), torch.randn(7, 2))
    ours, theirs = (loader(data, nn.Identity(), 3, CPU, 0) for loader in (ScratchLoader, ResidentLoader))
    assert same(ours.batches(), theirs.batches())


def test_augmentation_comes_before_the_transform_with_numbers_and_epoch() -> None:
    def augment(inputs: Tensor, index: Tensor, epoch: int) -> Tensor:
        assert inputs.dtype == torch.uint8
        return inputs + (index + epoch).to(torch.uint8).reshape(-1, 1, 1, 1)

    ours, theirs = (
        loader(split(), STANDARD, 5, CPU, 0, augment) for loader in (ScratchLoader, ResidentLoader)
    )
    for position in (0, 10):
        assert same(ours.batches(3, position), theirs.batches(3, position))
    assert not same(ours.batches(3), ScratchLoader(split(), STANDARD, 5, CPU, 0).batches(3))


def test_a_batch_is_no_window_into_the_storage() -> None:
    data = Split(torch.randn(10, 3), torch.arange(10))
    before = data.inputs.clone()
    for seed in (0, None):
        for batch, targets in ScratchLoader(data, nn.Identity(), 1, CPU, seed).batches():
            batch.mul_(0)
            targets.mul_(0)
    assert torch.equal(data.inputs, before)
    assert data.targets.tolist() == list(range(10))


def test_it_meets_the_protocol_and_has_a_note() -> None:
    loader = LOADERS.load("scratch")(split(), STANDARD, 5, CPU, 0)
    assert isinstance(loader, protocol.Loader)
    assert protocol.missing(protocol.Loader, loader) == []
    assert loader.note


def load_plain(item: int) -> Tensor:
    return torch.full((2,), float(item))


def load_noisy(item: int) -> Tensor:
    noise = random.random() + numpy.random.rand() + float(torch.rand(1))
    return torch.full((2,), item + noise)


def items(load: Any, samples: int = 11) -> ItemSplit:
    return ItemSplit([100 + number for number in range(samples)], torch.arange(samples), load)


@pytest.mark.parametrize("seed", [0, None])
def test_items_are_loaded_to_the_batches_of_resident(seed: int | None) -> None:
    ours = ScratchLoader(items(load_plain), nn.Identity(), 4, CPU, seed)
    theirs = ResidentLoader(items(load_plain), nn.Identity(), 4, CPU, seed, workers=0)
    for epoch, position in ((0, 0), (1, 4), (2, 11)):
        assert same(ours.batches(epoch, position), theirs.batches(epoch, position))


@pytest.mark.parametrize("seed", [0, 5, None])
def test_what_loading_draws_is_decided_as_the_workers_have_it(seed: int | None) -> None:
    ours = ScratchLoader(items(load_noisy), nn.Identity(), 4, CPU, seed)
    theirs = WorkersLoader(items(load_noisy), nn.Identity(), 4, CPU, seed, workers=0)
    for epoch, position in ((0, 0), (1, 4), (1, 0)):
        assert same(ours.batches(epoch, position), theirs.batches(epoch, position))
    assert not same(ours.batches(0), ours.batches(1))


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
    assert same(ours.batches(1), theirs.batches(1))
    assert all(inputs.is_cuda and targets.is_cuda for inputs, targets in ours.batches())


# ------------------------------------------------------------------ by name


def test_what_is_tested_here_ships() -> None:
    assert {"scratch_linear", "scratch_mlp"} <= set(MODELS.names())
    assert {"scratch_mse", "scratch_cross_entropy"} <= set(LOSSES.names())
    assert {"scratch_sgd", "scratch_adam"} <= set(OPTIMIZERS.names())
    assert "scratch" in LOADERS.names()


def test_torchs_modules_are_no_part_of_them() -> None:
    for name in ("scratch_linear", "scratch_mlp"):
        model = MODELS.load(name)((5,), 3)
        assert isinstance(model, scratch.Module)
        assert not any(isinstance(each, nn.Module) for _, each in protocol.named_modules(model))
    assert not isinstance(OPTIMIZERS.load("scratch_adam")([torch.ones(1)]), torch.optim.Optimizer)


def test_everything_from_scratch_trains_by_name(trainctl: Any) -> None:
    outcome = trainctl(
        "model=scratch_mlp",
        "optim=scratch_adam",
        "loss=scratch_cross_entropy",
        "loader=scratch",
        "train.max_steps=30",
        "threads=1",
        "train.clip_norm=1.0",
    )
    assert outcome.code == 0, outcome.err


def test_regression_from_scratch_trains_by_name(trainctl: Any) -> None:
    outcome = trainctl(
        "model=scratch_linear",
        "optim=scratch_sgd",
        "optim.momentum=0.9",
        "optim.lr=0.01",
        "loss=scratch_mse",
        "loader=scratch",
        "dataset=synthetic",
        "dataset.task=regression",
        "dataset.outputs=1",
        "train.max_steps=30",
    )
    assert outcome.code == 0, outcome.err
