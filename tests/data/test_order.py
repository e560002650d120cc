"""Orders that are computed are permutations as any other, and take no memory of the data's size."""

from __future__ import annotations

import resource

import pytest
import torch

from trainctl.components.loaders.workers import WorkersLoader
from trainctl.data import ItemSplit, order
from trainctl.data.order import Chunks, Permutation, Windows, epoch_order
from trainctl.data.sampler import Sampling
from trainctl.data.types import split_rows
from trainctl.registry.protocols import Cursor

CPU = torch.device("cpu")
CHUNKS = Chunks(torch.tensor([7, 7, 20, 21, 40, 50]), 2)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 10, 100, 1000, 99_990])
def test_a_permutation_has_each_number_once(length: int) -> None:
    made = Permutation(length, 5)
    whole = made[:]
    assert torch.equal(whole.sort().values, torch.arange(length))
    some = torch.randint(length, (7,))
    assert torch.equal(made[some], whole[some])
    assert torch.equal(Permutation(length, None)[:], torch.arange(length))


def test_a_permutation_is_the_same_on_every_machine() -> None:
    assert Permutation(10, 5)[:].tolist() == [2, 3, 5, 0, 4, 9, 1, 6, 7, 8]
    places = torch.tensor([0, 1, 10**9 - 1])
    assert Permutation(10**9, 5)[places].tolist() == [
        607819974,
        374399202,
        177184788,
    ]


def test_a_permutation_looks_like_a_drawn_one() -> None:
    """Places and numbers, each cut into 50 parts, meet as often as by chance; neighbours are not related."""
    length, parts, scores = 100_000, 50, []
    places = torch.arange(length)
    for seed in range(20):
        made = Permutation(length, seed)[:]
        cells = torch.bincount(places * parts // length * parts + made * parts // length)
        expected, freedom = length / parts**2, (parts - 1) ** 2
        scores.append(float(((cells - expected) ** 2).sum() / expected - freedom) / (2 * freedom) ** 0.5)
        for one, other in ((made, places), (made[1:], made[:-1])):
            correlation = float(torch.corrcoef(torch.stack((one, other)).double())[0, 1])
            assert abs(correlation) * length**0.5 < 4.5
    assert max(map(abs, scores)) < 4.5
    assert abs(sum(scores)) / len(scores) ** 0.5 < 4


def test_two_epochs_or_seeds_share_no_order() -> None:
    made = {
        tuple(Permutation(50, order.derived_seed("order", seed, epoch))[:].tolist())
        for seed in range(12)
        for epoch in range(12)
    }
    assert len(made) == 144
    windows = {tuple(Windows(CHUNKS, seed, epoch)[:].tolist()) for seed in range(12) for epoch in range(12)}
    assert len(windows) == 144


def test_from_many_samples_on_an_order_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = epoch_order(100, 0, 0)
    assert isinstance(small, torch.Tensor)
    monkeypatch.setattr(order, "LARGE", 100)
    assert torch.equal(epoch_order(99, 0, 0)[:], torch.randperm(99, generator=order._generator(0, 0)))
    large = epoch_order(100, 0, 0)
    assert isinstance(large, Permutation)
    assert not torch.equal(large[:], small)
    assert torch.equal(epoch_order(100, None, 3)[:], torch.arange(100))


@pytest.mark.parametrize("samples", [10**8, 10**9])
def test_an_epoch_of_very_many_samples_takes_no_memory_of_their_number(samples: int) -> None:
    targets = torch.zeros((), dtype=torch.int64).expand(samples)
    split = ItemSplit(range(samples), targets, lambda item: torch.tensor([item]))
    loader = WorkersLoader(split, torch.nn.Identity(), 64, CPU, 0, workers=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = next(loader.batches())
    middle = next(loader.batches(Cursor(0, samples // 64 // 2 * 64)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    numbers = torch.cat((first.inputs, middle.inputs)).flatten()
    assert len(numbers.unique()) == 128
    assert numbers.max() > samples // 2 > numbers.min()


def test_windows_mix_the_runs_and_the_samples_of_some_of_them() -> None:
    made = Windows(CHUNKS, 0, 1)
    whole = made[:]
    assert torch.equal(whole.sort().values, torch.arange(50))
    assert torch.equal(made[torch.tensor([40, 3, 17])], whole[torch.tensor([40, 3, 17])])
    start, runs = 0, []
    for window in range(3):
        inside = {int(torch.searchsorted(CHUNKS.ends, number, right=True)) for number in whole[start:]
                  [: sum(_size(run) for run in made.runs(window))]}  # fmt: skip
        assert inside == set(made.runs(window))
        assert made.window(start) == window
        start += sum(_size(run) for run in made.runs(window))
        runs += made.runs(window)
    assert sorted(runs) == [0, 2, 3, 4, 5]  # the one without samples is no part of it
    assert made.runs(3) == []
    assert not torch.equal(whole[:7], whole[:7].sort().values)
    assert torch.equal(Windows(CHUNKS, None, 1)[:], torch.arange(50))


def _size(run: int) -> int:
    return int(torch.diff(CHUNKS.ends, prepend=torch.tensor([0]))[run])


def test_a_window_of_all_runs_is_a_full_shuffle() -> None:
    counts = torch.zeros(50, 50)
    for epoch in range(400):
        counts[torch.arange(50), Windows(Chunks(CHUNKS.ends, 6), 0, epoch)[:]] += 1
    scores = (counts - 8) / 8**0.5
    assert float(scores.abs().max()) < 6
    assert float((scores**2).mean()) == pytest.approx(1, abs=0.1)


def test_selected_samples_keep_their_runs() -> None:
    kept = CHUNKS.select(torch.tensor([0, 6, 8, 25, 49]))
    assert kept is not None
    assert kept.ends.tolist() == [2, 2, 3, 3, 4, 5]
    assert CHUNKS.select(torch.tensor([6, 0])) is None
    split = ItemSplit(range(50), torch.arange(50), str, chunks=CHUNKS)  # type: ignore[arg-type]
    part = split.select(torch.tensor([0, 6, 8]))
    assert list(part.items) == [0, 6, 8]
    assert list(part.select(torch.tensor([2, 1])).items) == [8, 6]
    assert part.chunks is not None
    assert part.chunks.ends.tolist() == [2, 2, 3, 3, 3, 3]


def test_whole_runs_are_held_out() -> None:
    kept, held = split_rows(50, 0.5, 3, "val", CHUNKS)
    assert held is not None
    assert len(held) == 25
    assert torch.equal(torch.cat((kept, held)).sort().values, torch.arange(50))
    both = [run for run in range(6) if {*_run(run)} & {*kept.tolist()} and {*_run(run)} & {*held.tolist()}]
    assert len(both) <= 1


def _run(run: int) -> range:
    ends = [0, *CHUNKS.ends.tolist()]
    return range(ends[run], ends[run + 1])


def test_draws_stay_within_windows() -> None:
    weights = torch.rand(50, generator=torch.Generator().manual_seed(0))
    drawn = epoch_order(50, 0, 2, Sampling(weights), CHUNKS)[:]
    plain = epoch_order(50, 0, 2, Sampling(weights))[:]
    assert torch.equal(drawn.sort().values, plain.sort().values)
    runs = torch.searchsorted(CHUNKS.ends, drawn, right=True)
    changes = int((runs[1:] != runs[:-1]).sum())
    mixed = torch.searchsorted(CHUNKS.ends, plain, right=True)
    assert changes < int((mixed[1:] != mixed[:-1]).sum())
