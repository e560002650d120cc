"""What an epoch draws, mixed batches, folds: exact for any split over devices and after any resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.ranks import assert_same_run
from tests.helpers.ranks import warm_ranks as warm_ranks
from tests.helpers.runs import EVERY, WORDS, killed_after, same_end
from trainctl.components.loaders.resident import ResidentLoader
from trainctl.components.loaders.workers import WorkersLoader
from trainctl.data import Data, ItemSplit, Split, Standardize
from trainctl.data.augmentation import make_augment
from trainctl.data.mixing import Mix
from trainctl.data.order import epoch_order
from trainctl.data.sampler import Sampling, Share
from trainctl.data.types import hold_out_fold
from trainctl.errors import ConfigError
from trainctl.inference.trained_run import load_run
from trainctl.registry.protocols import Cursor
from trainctl.training.build import build

CPU = torch.device("cpu")
IMAGES = torch.rand(43, 3, 8, 6, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0] * 30 + [1] * 9 + [2] * 4)
BALANCED = Sampling(1.0 / torch.bincount(CLASSES)[CLASSES], CLASSES)


def row(item: int) -> Tensor:
    return IMAGES[item]


def test_draws_have_the_shares_of_the_weights_exactly_and_each_sample_its_own() -> None:
    weights = torch.tensor([0.0, 1.0, 1.0, 6.0, *[1.0] * 8])
    seen = torch.zeros(12)
    for epoch in range(400):
        counts = torch.bincount(epoch_order(12, 5, epoch, Sampling(weights)), minlength=12)
        assert counts.sum() == 12
        expected = 12 * weights / weights.sum()
        assert bool(((counts - expected).abs() < 1).all())
        seen += counts
    assert torch.allclose(seen / 400, expected, atol=0.1)
    first = epoch_order(43, 0, 0, BALANCED)
    assert torch.equal(first, epoch_order(43, 0, 0, BALANCED))
    assert not torch.equal(first, epoch_order(43, 0, 1, BALANCED))
    assert not torch.equal(first, epoch_order(43, 1, 0, BALANCED))
    for epoch in range(20):
        order = epoch_order(43, 0, epoch, BALANCED)
        counts = torch.bincount(CLASSES[order])
        assert bool(((counts - 43 / 3).abs() < 1).all())
        assert torch.bincount(order)[:30].max() == 1  # of the large class no sample comes twice


@pytest.mark.parametrize("way", ["MixUp", "CutMix"])
def test_samples_are_mixed_as_torchvision_does(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.transforms import v2

    mix = Mix(0.7 if way == "MixUp" else None, 0.7 if way == "CutMix" else None, 3, seed=4)
    theirs, shares = getattr(v2, way)(num_classes=3), set()
    for position in range(0, 430, 43):
        inputs, targets = mix(IMAGES, CLASSES, 2, position, neighbour=False)
        changed = (inputs != IMAGES).any(1).any(0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        share = float(targets[30, 1])  # the first of its class, mixed with the last of the one before
        box = (0, 0, 0, 0)
        if len(rows):
            box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        params: dict[str, Any] = {"labels": CLASSES, "batch_size": 43, "lam": share, "lam_adjusted": share}
        assert torch.allclose(theirs.transform(IMAGES, {**params, "box": box}), inputs, atol=1e-6)
        assert torch.allclose(theirs.transform(CLASSES, params), targets, atol=1e-6)
        if way == "CutMix":
            assert share == pytest.approx(1 - len(rows) * len(columns) / 48)
        shares.add(share)
    assert len(shares) > 5


def mixed(kind: type, *, rank: int = 0, size: int = 1, position: int = 0) -> list[Any]:
    """The batches of an epoch that are sampled, augmented and mixed, of one of ``size`` processes."""
    split: Any = Split(IMAGES, CLASSES) if kind is ResidentLoader else ItemSplit(range(43), CLASSES, row)
    augment = make_augment([{"RandomCrop": {"size": [8, 6], "padding": 2}}], Split(IMAGES, CLASSES), 1)
    mix, share = Mix(0.5, 0.5, 3, seed=1), Share(rank, size)
    loader = kind(split, nn.Identity(), 10, CPU, 1, augment, 0, share=share, sampling=BALANCED, mix=mix)
    return [(batch, share.idle) for batch in loader.batches(Cursor(3, position))]


@pytest.mark.parametrize("kind", [ResidentLoader, WorkersLoader])
def test_batches_are_those_of_one_device_and_of_a_run_without_a_pause(kind: type) -> None:
    whole = [batch for batch, _ in mixed(ResidentLoader)]
    assert [len(batch.targets) for batch in whole] == [10, 10, 10, 10, 3]
    assert all(batch.targets.shape[1] == 3 for batch in whole)
    rest = [batch for batch, _ in mixed(kind, position=20)]
    parts = [mixed(kind, rank=rank, size=4) for rank in range(4)]
    for number, batch in enumerate(whole):
        slices = [each for each, idle in (part[number] for part in parts) if not idle]
        assert torch.equal(batch.inputs, torch.cat([each.inputs for each in slices]))
        assert torch.equal(batch.targets, torch.cat([each.targets for each in slices]))
        assert {each.count for each in slices} == {batch.count}
        if number >= 2:
            assert torch.equal(batch.inputs, rest[number - 2].inputs)


@pytest.mark.parametrize("kind", [ResidentLoader, WorkersLoader])
def test_a_sample_that_comes_twice_is_augmented_twice(kind: type) -> None:
    one = Sampling(torch.tensor([1.0] + [0.0] * 42))
    split: Any = Split(IMAGES, CLASSES) if kind is ResidentLoader else ItemSplit(range(43), CLASSES, row)
    augment = make_augment([{"RandomCrop": {"size": [8, 6], "padding": 3}}], Split(IMAGES, CLASSES), 1)
    (batch,) = kind(split, Standardize(), 43, CPU, 1, augment, 0, sampling=one).batches()
    assert len({each.numpy().tobytes() for each in batch.inputs}) > 20


def test_folds_part_the_samples_and_each_class_evenly() -> None:
    data = Data("d", "classification", Split(IMAGES, CLASSES), None, (3, 8, 6), 3, nn.Identity())
    held = [hold_out_fold(data, 5, fold, 0, CLASSES) for fold in range(5)]
    vals: list[Any] = [each.val for each in held]
    assert sorted(value for val in vals for value in val.inputs[:, 0, 0, 0].tolist()) == sorted(
        IMAGES[:, 0, 0, 0].tolist()
    )
    assert {len(each.train) + len(val) for each, val in zip(held, vals, strict=True)} == {43}
    for group, count in ((0, 30), (1, 9), (2, 4)):
        assert all(abs(int((val.targets == group).sum()) - count / 5) < 1 for val in vals)
    assert held[1].note == "val is fold 1 of 0 to 4, 1 classes have fewer samples than there are folds"
    with pytest.raises(ConfigError, match="43 samples cannot be in 44 parts"):
        hold_out_fold(data, 44, 0, 0, CLASSES)


MIXED = ("model=cnn", "dataset.mixup=0.4", "dataset.cutmix=1.0", "dataset.sampling=balanced")
SMALL = ("model.dropout=0", "model.widths=[4]", "model.normalization=none", "loss.class_weights=balanced")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_ranks")
def test_a_mixed_run_is_the_same_on_several_devices(trainctl: Callable[..., Any]) -> None:
    for run, devices in (("one", 1), ("two", 2), ("three", 3)):
        words = (*WORDS[:3], *MIXED, *SMALL, "display.mode=none", f"devices={devices}")
        assert trainctl(*words, f"hydra.run.dir={run}").code == 0
    assert_same_run("one", "two")
    assert_same_run("one", "three")


def test_a_mixed_run_is_the_same_after_a_kill_within_an_epoch(trainctl: Callable[..., Any], tmp_path) -> None:
    assert trainctl(*WORDS[:3], *MIXED, *SMALL, *EVERY).code == 0
    cut = killed_after(tmp_path / "run", 6)
    assert trainctl("resume", str(cut)).code == 0
    assert same_end(tmp_path / "run", cut)


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("dataset.fold=1",), "add dataset.folds=5"),
        (("dataset.folds=5",), "-m dataset.fold=0,1,2,3,4"),
        (("dataset.folds=5", "dataset.fold=5"), "choose a fold, 0 to 4"),
        (("dataset.sampling=[1,2]",), "2 weights for 10 classes"),
        (("dataset.sampling=weighted",), "dataset digits has no weights"),
        (("dataset.sampling=balanced", "loader=scratch"), "takes no sampling"),
        (("dataset.sampling=balanced", "dataset=thermometer", "model=linear", "loss=mse"), "needs classes"),
        (("dataset.mixup=0.2", "loss=multi_margin"), "takes no shares of several classes"),
        (("dataset.cutmix=0.2", "dataset=synthetic"), "needs images"),
        (("dataset.augment=[{MixUp: {num_classes: 3}}]",), "use dataset.mixup=0.2"),
    ],
)
def test_what_cannot_be_drawn_or_mixed_is_refused(words: tuple[str, ...], says: str, trainctl) -> None:
    outcome = trainctl(*words, "epochs=1", "threads=1")
    assert outcome.code == 2
    assert says in outcome.err


WEIGHED = """
import torch
from trainctl.data import Datasets
from trainctl.registry import DATASETS

@DATASETS.register("weighed")
def weighed(first: float = 0.0):
    pairs = [(torch.full((2,), float(number)), number % 2) for number in range(40)]
    return Datasets(train=pairs, weights=[first] + [0.0] * 20 + [1.0] * 19)
"""


def test_a_dataset_s_own_weights_follow_its_samples_and_are_part_of_them(trainctl, tmp_path) -> None:
    (tmp_path / "weighed.py").write_text(WEIGHED)
    words = ("plugins=[./weighed.py]", "dataset.name=weighed", "dataset.sampling=weighted", "epochs=1")
    assert trainctl(*words, "threads=1", "hydra.run.dir=run", "dataset.val=0.25").code == 0
    built = build(load_run("run").config)
    drawn = torch.cat([batch.inputs[:, 0] for batch in built.run.train_loader.batches()])
    assert len(drawn) == 30
    assert set(drawn.tolist()) == {each for each in built.data.train.items if each > 20}
    outcome = trainctl("resume", "run", "epochs=2", "dataset.first=1.0", "--allow-change")
    assert outcome.code == 0
    assert "other weights in train" in outcome.out


@pytest.mark.slow
def test_folds_of_a_sweep_are_one_row(trainctl: Callable[..., Any]) -> None:
    words = ("-m", "dataset.folds=3", "dataset.fold=0,1,2", "epochs=1", "threads=1", "hydra/launcher=basic")
    outcome = trainctl(*words, "lr=1e-2,1e-4", "hydra.sweep.dir=sweep", "dataset.limit=200")
    assert outcome.code == 0, outcome.err
    compared = trainctl("compare", "sweep").out
    assert "2 settings, 6 runs" in compared
    assert "more than the noise of the folds" in compared
    assert "p is too small" in " ".join(compared.split())
