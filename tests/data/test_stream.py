"""An iterable dataset trains in its own order, is found again by reading, and says what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

from tests.helpers.ranks import warm_ranks
from tests.helpers.runs import EVERY, killed_after, metrics, record, same_end
from trainctl.components.loaders.auto import auto
from trainctl.data import Data, Datasets
from trainctl.data.map_style import from_datasets
from trainctl.data.sampler import Share
from trainctl.errors import ConfigError
from trainctl.registry.protocols import START, Cursor

__all__ = ["warm_ranks"]

PLUGIN = """
import random
import numpy, torch
from torch.utils.data import IterableDataset, get_worker_info
from trainctl.data import Datasets
from trainctl.registry import DATASETS

class Points(IterableDataset):
    classes = ["outside", "inside"]
    def __init__(self, count, noise=0.0, form="tuple"):
        self.count, self.noise, self.form, self.epoch = count, noise, form, 0
        self.left = (number for number in range(count)) if form == "once" else None
    def set_epoch(self, epoch):
        self.epoch = epoch
    def __iter__(self):
        info = None if self.form == "whole" else get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        points = torch.rand(self.count, 2, generator=torch.Generator().manual_seed(self.epoch))
        numbers = self.left if self.form == "once" else range(first, self.count, step)
        for number in numbers:
            drawn = random.random() + numpy.random.random() + torch.rand(()).item()
            point, inside = points[number] + self.noise * drawn, int(points[number].square().sum() < 0.6)
            if self.form == "broken" and number == 170:
                raise OSError("the file is cut off")
            if self.form == "classes" and self.epoch:
                inside = 7
            yield {"x": point, "label": inside} if self.form == "dictionary" else (point.numpy(), inside)

class Counted(Points):
    def __len__(self):
        return self.count

@DATASETS.register("stream")
def stream(form: str = "tuple", noise: float = 0.1, known: bool = True, val_samples: int = 60):
    kind = Counted if known else Points
    return Datasets(kind(400, noise, form), val=Points(val_samples), test=Points(50))
"""
WORDS = (
    *("plugins=[./endless.py]", "dataset.name=stream", "model.hidden=[8]", "model.dropout=0.3"),
    *("batch_size=72", "epochs=2", "threads=1"),
)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "endless.py").write_text(PLUGIN)
    return tmp_path


class Count(IterableDataset[Any]):
    """Ten samples, of which a worker has its share."""

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        return ((torch.full((2,), float(number)), number % 2) for number in range(first, 10, step))


def _loader(data: Data, **others: Any) -> Any:
    given = {"batch_size": 4, "device": torch.device("cpu"), "seed": 0, **others}
    return auto(data.train, data.transform, **given)


def _numbers(batches: Any) -> list[list[int]]:
    return [batch.inputs[:, 0].int().tolist() for batch in batches]


def test_batches_are_the_samples_in_their_order() -> None:
    data = from_datasets(Count(), "count")
    assert (data.task, data.output_size, data.input_shape) == ("classification", 2, (2,))
    loader = _loader(data)
    batches = list(loader.batches())
    assert _numbers(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [batch.targets.tolist() for batch in batches] == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1]]
    assert [batch.cursor for batch in batches] == [Cursor(0, 4), Cursor(0, 8), Cursor(1, 0)]
    assert _numbers(loader.batches(Cursor(0, 4))) == [[4, 5, 6, 7], [8, 9]]
    assert _numbers(loader.batches(Cursor(0, 2))) == [[2, 3, 4, 5], [6, 7, 8, 9]]
    with pytest.raises(ConfigError, match="gives no more samples in epoch 1, whose first 10 were used"):
        list(loader.batches(Cursor(0, 10)))


@pytest.mark.slow
def test_workers_take_turns_and_each_process_takes_its_slice() -> None:
    data = from_datasets(Count(), "count")
    loader = _loader(data, batch_size=3, workers=2)
    try:
        assert _numbers(loader.batches()) == [[0, 2, 4], [1, 3, 5], [6, 8, 7], [9]]
        assert _numbers(loader.batches(Cursor(0, 6))) == [[6, 8, 7], [9]]
    finally:
        loader.close()


def test_each_process_takes_its_slice_of_each_batch() -> None:
    data = from_datasets(Count(), "count")
    parts = [_numbers(_loader(data, share=Share(rank, 2)).batches()) for rank in (0, 1)]
    assert parts == [[[0, 1], [4, 5], [8]], [[2, 3], [6, 7], [9]]]
    turns = [_numbers(_loader(data, share=Share(rank, 2, by_turns=True)).batches()) for rank in (0, 1)]
    assert turns == [[[0, 1, 2, 3], [8, 9]], [[4, 5, 6, 7]]]


@pytest.mark.usefixtures("plugin")
def test_an_epoch_is_as_long_as_the_stream_says_or_lasts(trainctl, tmp_path: Path) -> None:
    outcome = trainctl(*WORDS, "hydra.run.dir=known")
    assert outcome.code == 0, outcome.err
    assert "400 train, a stream of val, a stream of test (Counted: samples (2,) float32" in outcome.out
    assert "12 steps, 6 an epoch" in outcome.out
    said = record(tmp_path / "known")["environment"]["stream"]
    assert said in outcome.out
    assert "in its own order: not shuffled, nothing held out of it; a resume reads" in said
    outcome = trainctl(*WORDS, "dataset.known=false", "train.max_steps=99", "hydra.run.dir=lasts")
    assert outcome.code == 0, outcome.err
    assert "99 steps, unknown an epoch" in outcome.out
    assert "the stream ended 2 times, as train.epochs=2 asks" in outcome.out
    assert metrics(tmp_path / "known") == metrics(tmp_path / "lasts")
    assert trainctl(*WORDS, "dataset.limit=144", "hydra.run.dir=short").code == 0
    assert record(tmp_path / "short")["last"]["step"] == 4


@pytest.mark.usefixtures("plugin", "warm_ranks")
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("loader.workers=0",), id="none"),
        pytest.param(("dataset.known=false", "train.max_steps=12"), id="unknown length"),
        pytest.param(("loader.workers=2",), marks=pytest.mark.slow, id="two workers"),
        pytest.param(("devices=2", "device=cpu"), marks=pytest.mark.slow, id="two devices"),
    ],
)
def test_a_run_that_is_killed_in_an_epoch_goes_on_to_the_same_bits(
    trainctl, tmp_path: Path, words: tuple[str, ...]
) -> None:
    outcome = trainctl(*WORDS, *EVERY, *words)
    assert outcome.code == 0, outcome.err
    cut = killed_after(tmp_path / "run", 8)  # an epoch has 6 steps
    outcome = trainctl("resume", "cut", "--trust-plugins")
    assert outcome.code == 0, outcome.err
    assert same_end(tmp_path / "run", cut, 12)


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
def test_the_same_holds_for_workers_of_two_devices(trainctl, tmp_path: Path) -> None:
    assert trainctl(*WORDS, *EVERY, "devices=2", "device=cpu", "loader.workers=2").code == 0
    cut = killed_after(tmp_path / "run", 8)
    outcome = trainctl("resume", "cut", "--trust-plugins")
    assert outcome.code == 0, outcome.err
    assert same_end(tmp_path / "run", cut, 12)


@pytest.mark.usefixtures("plugin", "warm_ranks")
def test_two_devices_take_the_steps_of_one(trainctl, tmp_path: Path) -> None:
    words = (*WORDS, "model.dropout=0.0", "device=cpu")
    for devices in (1, 2):
        assert trainctl(*words, f"devices={devices}", f"hydra.run.dir=on{devices}").code == 0
    one, two = ([row["train/loss"] for row in metrics(tmp_path / f"on{n}") if "lr" in row] for n in (1, 2))
    assert two == pytest.approx(one, rel=1e-5)
    assert record(tmp_path / "on2")["test"] == pytest.approx(record(tmp_path / "on1")["test"], rel=1e-5)


@pytest.mark.usefixtures("plugin")
def test_other_workers_are_another_order(trainctl, tmp_path: Path) -> None:
    assert trainctl(*WORDS, *EVERY).code == 0
    killed_after(tmp_path / "run", 8)
    outcome = trainctl("resume", "cut", "--trust-plugins", "loader.workers=2")
    assert outcome.code == 2
    assert "another order of the samples in train" in outcome.err
    assert "which is that of loader.workers=2, not 1" in outcome.err


@pytest.mark.usefixtures("plugin")
def test_every_verb_takes_a_run_on_a_stream(trainctl, tmp_path: Path) -> None:
    assert trainctl(*WORDS, "dataset.form=dictionary", "hydra.run.dir=run").code == 0
    evaluated = trainctl("eval", "run")
    assert (evaluated.code, "inside" in evaluated.out) == (0, True), evaluated.err
    recorded = record(tmp_path / "run")["test"]["test/accuracy"]
    assert f"{recorded:.4f}" in evaluated.out
    numpy.savez(tmp_path / "new.npz", x=torch.rand(5, 2).numpy())
    predicted = trainctl("predict", "run", "--input", "new.npz", "--output", "new.csv")
    assert predicted.code == 0, predicted.err
    for words in (["export", "run", "--format", "safetensors"], ["verify", "run"]):
        outcome = trainctl(*words)
        assert outcome.code == 0, outcome.err


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_lives_the_whole_life_of_a_config(trainctl, workers: int) -> None:
    outcome = trainctl("smoke", *WORDS[:5], f"loader.workers={workers}")
    assert outcome.code == 0, outcome.err + outcome.out


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dataset.known=false",), "of unknown length, so the run needs an end"),
        (("dataset.folds=3", "dataset.fold=0"), "validation samples of its own"),
        (("train.overfit_batches=1",), "samples have no numbers to choose them by"),
        (("dataset.sampling=balanced",), "draws by targets"),
        (("dataset.augment=[RandomHorizontalFlip]",), "unknown or too many"),
        (("loader=resident",), "loader=resident: dataset stream is an IterableDataset"),
        (("loader=scratch",), "loader=scratch: dataset stream is an IterableDataset"),
        (("loss.class_weights=balanced",), "class_weights"),
        (("dataset.form=once",), "stream: train gives no more samples in epoch 1"),
        (("dataset.form=broken",), "train cannot be read after sample 169: OSError: the file is cut off"),
        (("dataset.form=classes",), "target 7 is outside its 2 classes"),
        (("dataset.val_samples=0",), "stream: val gives no sample"),
    ],
)
def test_what_a_stream_cannot_do_is_said(trainctl, words: tuple[str, ...], message: str) -> None:
    outcome = trainctl(*WORDS, *words)
    assert outcome.code == 2, outcome.err
    assert message in outcome.err


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("whole", "loader.workers=2: two workers read the same samples of dataset stream"),
        ("broken", "OSError: the file is cut off"),
    ],
)
def test_what_goes_wrong_in_a_worker_ends_the_run(trainctl, form: str, message: str) -> None:
    outcome = trainctl(*WORDS, "loader.workers=2", f"dataset.form={form}", "dataset.noise=0")
    assert outcome.code == 2
    assert message in outcome.err


def test_a_stream_may_stand_beside_a_map_style_split() -> None:
    data = from_datasets(Datasets(train=[(torch.ones(2), 0), (torch.ones(2), 1)], val=Count()), "both")
    assert (len(data.train), data.output_size) == (2, 2)
    assert data.val is not None
    assert _numbers(auto(data.val, data.transform, 5, torch.device("cpu"), None).batches(START))[1] == [
        *range(5, 10)
    ]
