"""Resident batches: the order is a function of (seed, epoch), and the cursor gives the rest exactly."""

from __future__ import annotations

import pytest
import torch

from trainctl.components.loaders import resident
from trainctl.components.loaders.resident import ResidentLoader, epoch_order
from trainctl.data import Split, Standardize
from trainctl.registry.protocols import Cursor

CPU = torch.device("cpu")


def loader(samples: int = 23, batch_size: int = 5, seed: int | None = 0) -> ResidentLoader:
    inputs = torch.arange(samples, dtype=torch.uint8).reshape(samples, 1, 1)
    return ResidentLoader(
        Split(inputs, torch.arange(samples)), Standardize(255.0, 0.5, 0.25), batch_size, CPU, seed
    )


def order(each: ResidentLoader, epoch: int = 0, position: int = 0) -> list[int]:
    return [int(target) for _, targets, *_ in each.batches(Cursor(epoch, position)) for target in targets]


@pytest.mark.parametrize("samples", [1, 4, 5, 6, 23, 256])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("seed", [0, 3, None])
def test_every_sample_comes_once_an_epoch_in_batches_of_the_size(
    samples: int, batch_size: int, seed: int | None
) -> None:
    each = loader(samples, batch_size, seed)
    sizes = [len(targets) for _, targets, *_ in each.batches(Cursor(2))]
    assert sorted(order(each, 2)) == list(range(samples))
    assert len(sizes) == len(each)
    assert all(size == batch_size for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_size
    assert each.samples == samples


@pytest.mark.parametrize("seed", [0, None])
def test_a_model_may_change_its_batch_in_place(seed: int | None) -> None:
    inputs = torch.arange(12, dtype=torch.float32).reshape(6, 2)
    each = ResidentLoader(Split(inputs, torch.arange(6)), torch.nn.Identity(), 4, CPU, seed)
    for batch in each.batches():
        batch.inputs.zero_()
        batch.targets.zero_()
    assert each.split.inputs.sum() == 66
    assert each.split.targets.tolist() == [0, 1, 2, 3, 4, 5]


def test_inputs_stay_with_their_targets_and_are_transformed() -> None:
    for inputs, targets, *_ in loader().batches(Cursor(1)):
        assert inputs.dtype == torch.float32
        assert inputs.shape == (len(targets), 1, 1)
        expected = (targets.double() / 255 - 0.5) / 0.25
        torch.testing.assert_close(inputs.flatten().double(), expected, rtol=1e-6, atol=1e-6)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first = order(loader(), epoch=4)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = loader(batch_size=7)
    assert order(again, epoch=3) != first
    assert order(again, epoch=4) == first
    assert order(loader(seed=1), epoch=4) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_two_epochs_or_seeds_share_no_order() -> None:
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(12) for epoch in range(12)}
    assert len(orders) == 144


def test_an_order_is_a_permutation_and_the_same_on_every_machine() -> None:
    """The figures were written down once: a change of the order would break every resumed run."""
    assert epoch_order(8, 0, 0).dtype == torch.int64
    assert epoch_order(8, 0, 0).device == CPU
    assert epoch_order(8, 0, 0).tolist() == [4, 3, 0, 7, 5, 6, 1, 2]
    assert epoch_order(8, 1, 2).tolist() == [6, 4, 0, 2, 7, 5, 1, 3]


@pytest.mark.parametrize("epoch", [0, 1, 7])
@pytest.mark.parametrize("seed", [0, None])
def test_continuing_from_the_cursor_gives_exactly_the_remaining_batches(epoch: int, seed: int | None) -> None:
    each = loader(seed=seed)
    whole = list(each.batches(Cursor(epoch)))
    for done in range(len(whole) + 1):
        position = min(each.samples, done * each.batch_size)
        rest = list(loader(seed=seed).batches(Cursor(epoch, position)))
        assert len(rest) == len(whole) - done
        for one, other in zip(whole[done:], rest, strict=True):
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.targets, other.targets)
            assert (one.count, one.cursor) == (other.count, other.cursor)


def test_without_a_seed_the_stored_order_is_kept() -> None:
    each = loader(seed=None)
    assert order(each) == order(each, epoch=5) == list(range(23))


def test_bytes_stay_bytes_in_storage() -> None:
    each = loader()
    list(each.batches())
    assert each.split.inputs.dtype == torch.uint8
    assert each.split.inputs.flatten().tolist() == list(range(23))


def test_a_batch_is_no_window_into_the_storage() -> None:
    """What a model does in place to its inputs must not reach the data."""
    inputs = torch.randn(10, 3)
    for seed in (0, None):
        each = ResidentLoader(Split(inputs, torch.arange(10)), Standardize(), 4, CPU, seed)
        before = inputs.clone()
        for batch, *_ in each.batches():
            batch.mul_(0)
        assert torch.equal(each.split.inputs, before)


def test_inputs_that_are_transformed_once_give_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: also in tensors that are used again, whatever a model does in place to them."""
    expected = list(loader(seed=3).batches(Cursor(1)))
    monkeypatch.setattr(resident, "_LAUNCHED", ("cpu",))
    monkeypatch.setattr(resident, "_CHUNK", 7)
    each = loader(seed=3)
    assert "_inputs" not in vars(each), "before anyone asks for a batch"
    reused = each.reuse()
    assert reused is not None
    monkeypatch.setattr(each, "transform", None)  # it is not asked again
    for again in (False, True):
        places = set()
        batches = reused.batches(Cursor(1)) if again else each.batches(Cursor(1))
        for batch, right in zip(batches, expected, strict=True):
            if again and batch.count == 5:
                reused.fill()
            assert torch.equal(batch.inputs, right.inputs)
            assert torch.equal(batch.targets, right.targets)
            assert (batch.count, batch.cursor) == (right.count, right.cursor)
            if batch.count == 5:
                places.add(batch.inputs.data_ptr())
            batch.inputs.mul_(0)
        assert (len(places) == 1) is again


def test_an_epoch_continued_in_the_middle_of_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [batch.targets.tolist() for batch in loader(seed=3).batches(Cursor(1))]
    monkeypatch.setattr(resident, "_PIECES", 2)
    for begun in range(len(whole)):
        rest = loader(seed=3).batches(Cursor(1, 5 * begun))
        assert [batch.targets.tolist() for batch in rest] == whole[begun:]


@pytest.mark.gpu
def test_the_order_is_the_same_on_a_gpu() -> None:
    device = torch.device("cuda")
    split = Split(torch.zeros(23, 1), torch.arange(23))
    on_gpu = ResidentLoader(split, Standardize(), 5, device, 0)
    assert order(on_gpu, 3) == order(loader(), 3)
    assert all(inputs.device.type == "cuda" for inputs, *_ in on_gpu.batches())
