"""Any map-style dataset trains like tensors, to the bit; what cannot be used is named by split and index."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from tests.helpers.runs import EVERY, killed_after, metrics, record, same_end, weights
from trainctl.config.settings import Component
from trainctl.data import Data, Datasets, ItemSplit, Standardize, map_style, order, worker_pool
from trainctl.data.map_style import from_datasets
from trainctl.data.types import hold_out
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS
from trainctl.training.prepare_data import build_data

PLUGIN = """
import random
import numpy, torch
from torch.utils.data import Dataset
from trainctl.data import Data, Datasets, Split
from trainctl.registry import DATASETS

class Points(Dataset):
    classes = ["outside", "inside"]
    def __init__(self, count, noise, form):
        self.points = torch.rand(count, 2, generator=torch.Generator().manual_seed(count))
        self.inside = (self.points.square().sum(1) < 0.6).long()
        self.noise, self.form = noise, form
    def __len__(self):
        return len(self.points)
    def __getitem__(self, index):
        drawn = random.random() + numpy.random.random() + torch.rand(()).item()
        point = self.points[index] + self.noise * drawn
        if self.form == "dictionary":
            return {"x": point, "label": self.inside[index]}
        if self.form == "broken" and index == 37:
            raise OSError("the file is cut off")
        return point.numpy(), int(self.inside[index])

@DATASETS.register("points")
def points(form: str = "tuple", noise: float = 0.0):
    train, test = (Points(count, noise, form) for count in (240, 60))
    if form != "tensors":
        return Datasets(train, test=test)
    splits = [Split(each.points, each.inside) for each in (train, test)]
    classes = tuple(Points.classes)
    return Data("points", "classification", *splits, (2,), 2, torch.nn.Identity(), classes=classes)
"""
WORDS = (
    *("plugins=[./points.py]", "dataset.name=points", "model.hidden=[8]", "model.dropout=0.3"),
    *("batch_size=40", "epochs=2", "threads=1", "loader.workers=0"),
)
FACTORS: Any = torch.tensor([1.0, 2.0])


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "points.py").write_text(PLUGIN)
    return tmp_path


class Made(Dataset[Any]):
    """Twenty samples that ``change`` may replace, at index 14 only unless it is ``all`` of them."""

    def __init__(self, change: Callable[[Any, Any], Any] | None = None, *, every: bool = False) -> None:
        self.change, self.every = change, every

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        given = FACTORS * index, index % 2
        return self.change(*given) if self.change and (self.every or index == 14) else given


@pytest.mark.usefixtures("plugin")
def test_a_dataset_trains_like_tensors_to_the_bit(trainctl, tmp_path: Path) -> None:
    forms = ("tensors", "tuple", "dictionary")
    for form in forms:
        outcome = trainctl(*WORDS, f"dataset.form={form}", f"hydra.run.dir={form}")
        assert outcome.code == 0, outcome.err
    assert "60 test (Points: samples (2,) float32, 2 classes)" in outcome.out
    first, *others = (
        (metrics(tmp_path / form), weights(tmp_path / form), record(tmp_path / form)["test"])
        for form in forms
    )
    assert all(other == first for other in others)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_in_an_epoch_goes_on_to_the_same_bits(
    trainctl, tmp_path: Path, workers: int
) -> None:
    assert trainctl(*WORDS, *EVERY, "dataset.noise=0.1", f"loader.workers={workers}").code == 0
    cut = killed_after(tmp_path / "run", 8)  # an epoch has 6 steps
    outcome = trainctl(
        "resume", "cut", "--trust-plugins", "loader.workers=0" if workers else "display.mode=none"
    )
    assert outcome.code == 0, outcome.err
    assert same_end(tmp_path / "run", cut, 12)


@pytest.mark.usefixtures("plugin")
def test_every_verb_takes_a_run_on_a_dataset(trainctl, tmp_path: Path) -> None:
    assert trainctl(*WORDS, "dataset.noise=0.1", "hydra.run.dir=run").code == 0
    evaluated = trainctl("eval", "run")
    assert (evaluated.code, "inside" in evaluated.out) == (0, True), evaluated.err
    recorded = record(tmp_path / "run")["test"]["test/accuracy"]
    assert f"{recorded:.4f}" in evaluated.out
    numpy.savez(tmp_path / "new.npz", x=torch.rand(5, 2).numpy())
    predicted = trainctl("predict", "run", "--input", "new.npz", "--output", "new.csv")
    assert predicted.code == 0, predicted.err
    assert (tmp_path / "new.csv").read_text().startswith("row,prediction,probability_outside")
    for words in (["export", "run", "--format", "safetensors"], ["verify", "run"]):
        outcome = trainctl(*words)
        assert outcome.code == 0, outcome.err


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
def test_a_dataset_lives_the_whole_life_of_a_config(trainctl) -> None:
    outcome = trainctl("smoke", *WORDS[:5], "dataset.noise=0.1", "loader.workers=2")
    assert outcome.code == 0, outcome.err + outcome.out


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_getitem_raises_ends_the_run_with_split_and_index(trainctl, workers: int) -> None:
    outcome = trainctl(*WORDS, "dataset.form=broken", f"loader.workers={workers}")
    assert outcome.code == 2
    assert "dataset points: train[37] cannot be loaded: OSError: the file is cut off" in outcome.err
    assert "points.py line 22" in outcome.err


WRONG: dict[str, tuple[Any, str]] = {
    "shape": (lambda x, y: (x[:1], y), "train[14] is (1,) float32 with target () int64, others are (2,)"),
    "type": (lambda x, y: (x.double(), y), "train[14] is (2,) float64"),
    "target type": (lambda x, y: (x, float(y)), "with target () float64, others are"),
    "none": (lambda x, y: None, "train[14] is None, not an input and its target"),
    "tensor": (lambda x, y: x, "train[14] is a Tensor (2,) float32, not"),
    "three": (lambda x, y: (x, y, 3), "train[14] is a tuple of 3 (Tensor, int, int), not"),
    "list": (lambda x, y: (x.tolist(), y), "train[14]: its input is a list of 2 (float, float)"),
    "text": (lambda x, y: (x, "cat"), "train[14]: its target is a str"),
    "number": (lambda x, y: (1.0, y), "train[14]: its input is one number"),
    "objects": (lambda x, y: (numpy.array([None, "a"]), y), "which no tensor can hold"),
    "sparse": (lambda x, y: (x.to_sparse(), y), "train[14]: its input is a Tensor (2,) float32"),
    "palette": (lambda x, y: (Image.new("P", (2, 2)), y), "train[14]: its input is an image of mode P"),
    "nested": (lambda x, y: ({"a": x, "b": (x, x)}, y), "train[14]: its input b is a tuple of 2"),
    "keys": (lambda x, y: {"a": x, "b": x}, "is a dictionary of a, b: one must be the target, the others"),
    "leaves": (lambda x, y: sys.exit(3), "train[14] cannot be loaded: SystemExit: 3"),
    "raises": (lambda x, y: {}["key"], "train[14] cannot be loaded: KeyError: 'key'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_sample_that_cannot_be_used_is_named(what: str) -> None:
    change, message = WRONG[what]
    with pytest.raises(ConfigError) as caught:
        from_datasets(Made(change), "made")
    assert message in str(caught.value)


class NoLength(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return FACTORS, 1


class NoNumber(NoLength):
    def __len__(self) -> int:
        raise NotImplementedError("unknown")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "dataset made: train is None, which has no __len__"),
        (NoLength(), "is a NoLength, which has no __len__"),
        (NoNumber(), "train (NoNumber) has no length: NotImplementedError: unknown"),
        (torch.rand(4, 2), "train is a Tensor (4, 2) float32"),
        (Datasets(Made(), test=Made(lambda x, y: (x[:1], y), every=True)), "made: test[0] is (1,) float32"),
        (Datasets([{"a": 1}], target="b"), "is a dictionary of a: b is not there"),
        (Made(lambda x, y: (x, torch.tensor([1, 0])), every=True), "neither one class nor floats"),
        (Made(lambda x, y: (x, y + 70), every=True), "20 samples cannot have 72 classes"),
    ],
)
def test_what_is_no_dataset_is_refused_with_the_remedy(given: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_datasets(given, "made")
    assert message in str(caught.value)


def test_a_target_that_changes_is_never_trained_on() -> None:
    data = from_datasets(Made(lambda x, y: (x, random.randrange(20))), "made")
    with pytest.raises(ConfigError, match=r"train\[14\] has target \d+, it was \d+ before"):
        data.train.load(14)  # type: ignore[union-attr]


def test_arrays_images_and_numbers_become_tensors() -> None:
    image = Image.new("RGB", (4, 3), (255, 0, 10))
    data = from_datasets(Made(lambda x, y: (image, numpy.float32(y)), every=True), "made")
    assert (data.task, data.output_size, data.input_shape) == ("regression", 1, (3, 3, 4))
    assert isinstance(data.transform, Standardize)
    assert data.train.load(0).unique().tolist() == [0, 10, 255]  # type: ignore[union-attr]
    assert data.train.targets.dtype == torch.float32
    wide = from_datasets([(numpy.arange(3.0), True), (numpy.arange(3.0), False)], "made")
    assert (wide.task, wide.output_size, wide.note) == (
        "classification",
        2,
        "list: samples (3,) float64, 2 classes",
    )


def test_a_data_of_datasets_is_refused_with_the_way_to_write_it() -> None:
    DATASETS.register("mixed")(lambda: Data("mixed", "classification", Made(), None, (2,), 2, Standardize()))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dataset=mixed: train of its Data is a Made") as caught:
        build_data(Component("dataset", "mixed", {}, {"val": 0, "split_seed": 0}))
    assert "Datasets(train=" in caught.value.problems[0].remedy


def test_workers_are_started_only_for_samples_that_take_time() -> None:
    def workers(seconds: float) -> int:
        data = from_datasets([(FACTORS, number % 2) for number in range(600)], "made")
        data.train.load.seconds = seconds  # type: ignore[union-attr]
        feed = worker_pool.Feed(data.train, 60, 0, workers="auto", prefetch=1, timeout=9.0)  # type: ignore[arg-type]
        return feed.workers

    assert (workers(1e-5), workers(0.01) > 0) == (0, True)


class Listed(Made):
    classes = ("even", "odd", "neither")

    def __init__(self, change: Any = None, targets: Any = None) -> None:
        super().__init__(change, every=True)
        self.read: list[int] = []
        self.targets = targets or [index % 2 for index in range(20)]

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return super().__getitem__(index)


def test_listed_targets_are_taken_where_samples_have_the_same() -> None:
    """Reading a million images for their targets would take an hour."""
    source = Listed()
    data = from_datasets(Subset(source, range(1, 20, 2)), "made")
    assert data.train.targets.tolist() == [1] * 10
    assert (data.classes, data.output_size) == (Listed.classes, 3)
    every = from_datasets(Listed(lambda x, y: (x, 1 - y)), "made")  # as a target_transform does
    assert every.train.targets[:4].tolist() == [1, 0, 1, 0]
    wrong = Listed(targets=[index % 2 if index != 19 else 0 for index in range(20)])
    data = from_datasets(wrong, "made")
    with pytest.raises(ConfigError, match=r"train\[19\] has target 1, it was 0 before"):
        data.train.load(19)  # type: ignore[union-attr]


def test_random_numbers_of_its_own_are_said() -> None:
    own = numpy.random.default_rng(0)
    noisy = from_datasets(Made(lambda x, y: (x + own.random(), y), every=True), "made")
    assert "random numbers of its own, which no seed repeats" in noisy.note
    seeded = from_datasets(Made(lambda x, y: (x + random.random(), y), every=True), "made")
    assert "random" not in seeded.note


def test_what_a_dataset_opens_on_access_is_not_sent_to_workers() -> None:
    class Opening(Made):
        handle = None

        def __getitem__(self, index: int) -> Any:
            self.handle = object()
            return super().__getitem__(index)

    opening = Opening()
    from_datasets(Subset(opening, range(20)), "made")
    assert opening.handle is None


def test_tensor_datasets_and_empty_splits() -> None:
    inputs, targets = torch.rand(9, 4), torch.rand(9, 3)
    data = from_datasets(Datasets(TensorDataset(inputs, targets), test=[]), "made")
    assert (data.task, data.output_size, len(data.test or ())) == ("regression", 3, 0)
    assert torch.equal(data.train.targets, targets)


@pytest.mark.slow
def test_targets_of_slow_samples_are_read_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_style, "_LONG", 0.0)
    feeds: list[Any] = []
    monkeypatch.setattr(
        worker_pool.Feed,
        "close",
        lambda feed, close=worker_pool.Feed.close: (feeds.append(feed.workers), close(feed)),
    )
    many = [(torch.tensor([float(number)]), number * number) for number in range(700)]
    data = from_datasets(Datasets(many, output_size=490000), "made")
    assert data.train.targets.tolist() == [number * number for number in range(700)]
    assert feeds[0] > 0


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_of_very_many_samples_some_targets_are_read_and_nothing_is_listed(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(order, "LARGE", 200)
    monkeypatch.setattr(map_style, "_SAMPLED", 50)
    words = (*WORDS[:-1], "dataset.noise=0.1", f"loader.workers={workers}")
    outcome = trainctl(*words, *EVERY, "display.mode=plain", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    # Training data has 240 samples and is large, test data has 60.
    assert "216 train, 24 val, 60 test" in outcome.out
    assert "2 classes, as 50 evenly spaced targets say: the dataset lists none" in outcome.out
    assert "evenly spaced targets" in record(tmp_path / "run")["environment"]["targets"]
    cut = killed_after(tmp_path / "run", 8)
    outcome = trainctl("resume", "cut", "--trust-plugins")
    assert outcome.code == 0, outcome.err
    assert same_end(tmp_path / "run", cut, 12)
    outcome = trainctl(*words, "dataset.sampling=balanced")
    assert (outcome.code, "draws by targets" in outcome.err) == (2, True)
    outcome = trainctl(*words, "loader=resident")
    assert (outcome.code, "has too many samples" in outcome.err) == (2, True)


def test_held_out_of_very_many_samples_are_none_that_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "LARGE", 20)
    data = hold_out(from_datasets(Made(), "made"), 6, 0)
    assert isinstance(data.train, ItemSplit)
    assert isinstance(data.val, ItemSplit)
    assert (len(data.train), len(data.val)) == (14, 6)
    assert sorted([*data.train.items, *data.val.items]) == list(range(20))
