"""Samples of several inputs: the model's forward gets each by position or by name, in every verb."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

import trainctl as public
from tests.helpers.runs import EVERY, killed_after, metrics, same_end, weights
from trainctl.data.inputs import Inputs, parts_of, stacked

PLUGIN = """
import torch
from torch import nn
from torch.utils.data import Dataset
from trainctl.data import Data, Datasets, Split
from trainctl.registry import DATASETS, MODELS

class Scans(Dataset):
    def __init__(self, count, form):
        drawn = torch.Generator().manual_seed(count)
        self.image = torch.randint(0, 256, (count, 1, 4, 4), generator=drawn, dtype=torch.uint8)
        self.age = torch.rand(count, 1, generator=drawn)
        self.ill, self.form = (self.age[:, 0] > 0.5).long(), form
    def __len__(self):
        return len(self.ill)
    def __getitem__(self, index):
        image, age, ill = self.image[index], self.age[index], self.ill[index]
        if self.form == "bad":
            age = age * float("nan")
        if self.form == "tuple":
            return (image, age), ill
        more = {"id": str(index)} if self.form in ("more", "chosen") else {}
        return {"label": ill, "image": image, "age": age, **more}

@DATASETS.register("scans")
def scans(form: str = "names", count: int = 200):
    inputs = ["image", "age"] if form == "chosen" else ()
    return Datasets(Scans(count, form), test=Scans(60, form), inputs=inputs)

@MODELS.register("both")
class Both(nn.Module):
    def __init__(self, input_shape, output_size, other: bool = False):
        super().__init__()
        shapes = input_shape.values() if isinstance(input_shape, dict) else input_shape
        assert list(shapes) == [(1, 4, 4), (1,)]
        self.image, self.age = nn.Linear(16, 4), nn.Linear(1, 4)
        self.last, self.dropout = nn.Linear(4, output_size), nn.Dropout(0.2)
    def forward(self, image, age):
        return self.last(self.dropout(self.image(image.flatten(1)) + self.age(age)))

@MODELS.register("other")
class Other(Both):
    def forward(self, picture, age):
        return super().forward(picture, age)
"""
WORDS = (
    *("plugins=[./scans.py]", "dataset.name=scans", "model.name=both"),
    *("batch_size=40", "epochs=2", "threads=1", "loader.workers=0", "hydra.run.dir=run"),
)


@pytest.fixture
def plugin(tmp_path: Path) -> None:
    (tmp_path / "scans.py").write_text(PLUGIN)


@pytest.mark.usefixtures("plugin")
def test_names_positions_and_resident_samples_train_the_same(trainctl, tmp_path: Path) -> None:
    ways = ["names", "dataset.form=tuple", "loader=resident"]
    for way in ways:
        words = (*WORDS[:-1], f"hydra.run.dir={way}", *([way] if "=" in way else []))
        outcome = trainctl(*words)
        assert outcome.code == 0, outcome.err
    first, *others = ((metrics(tmp_path / way), weights(tmp_path / way)) for way in ways)
    assert all(other == first for other in others)


@pytest.mark.usefixtures("plugin")
def test_a_run_on_several_inputs_is_resumed_evaluated_predicted_with_and_exported(
    trainctl, tmp_path: Path
) -> None:
    shown = trainctl(*WORDS, "dataset.form=chosen")
    assert "samples image (1, 4, 4) uint8, age (1,) float32, uint8 divided by 255" in shown.out
    assert trainctl("eval", "run").out.count("the same as recorded") == 1
    rows = {"image": numpy.zeros((3, 1, 4, 4), numpy.uint8), "age": numpy.array([[0.2], [numpy.nan], [0.9]])}
    numpy.savez(tmp_path / "new.npz", **rows)
    predicted = trainctl("predict", "run", "--input", "new.npz", "--output", "new.csv")
    assert "row 2: age[1, 0]: nan" in predicted.out
    model = public.load("run")
    tensors = {name: torch.from_numpy(each[[0, 2]]).float() for name, each in rows.items()}
    expected = model(**tensors).softmax(1)[:, 0].tolist()
    lines = (tmp_path / "new.csv").read_text().splitlines()
    found = [float(lines[row].split(",")[2]) for row in (1, 3)]
    assert found == pytest.approx(expected, abs=1e-6)
    numpy.savez(tmp_path / "half.npz", image=rows["image"])
    assert "no array age" in trainctl("predict", "run", "--input", "half.npz", "--output", "new.csv").err
    exported = trainctl("export", "run", "--format", "torch")
    assert "takes raw samples image (N, 1, 4, 4) uint8, age (N, 1) float32" in exported.out


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("form", ["names", "tuple"])
def test_several_inputs_live_the_whole_life_of_a_config(trainctl, tmp_path: Path, form: str) -> None:
    outcome = trainctl("smoke", *WORDS[:3], f"dataset.form={form}", "loader.workers=2")
    assert outcome.code == 0, outcome.err + outcome.out
    assert trainctl(*WORDS, *EVERY, "loader.workers=2").code == 0
    cut = killed_after(tmp_path / "run", 7)  # an epoch has 5 steps
    assert trainctl("resume", "cut", "--trust-plugins").code == 0
    assert same_end(tmp_path / "run", cut, 10)
    assert trainctl(*WORDS[:-1], "devices=2", "hydra.run.dir=two").code == 0


@pytest.mark.quick(1)
@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.name=mlp"], "choose a model whose forward takes each of these inputs"),
        (["model.name=other"], "does not take inputs of shape image (N, 1, 4, 4), age (N, 1)"),
        (["dataset.augment=[RandomHorizontalFlip]"], "samples have several inputs"),
        (["dataset.form=more"], "train[0]: its input id is a str"),
        (["train.capture=true"], "samples have several inputs"),
        (["loader=scratch"], "loader=scratch: samples have several inputs"),
    ],
)
def test_what_does_not_fit_several_inputs_is_said(trainctl, words: list[str], message: str) -> None:
    base = [word for word in WORDS if not word.startswith("loader.")]
    outcome = trainctl(*base, *words)
    assert outcome.code == 2
    assert message in outcome.err


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
def test_a_bad_step_of_several_inputs_is_kept_and_replayed(trainctl, tmp_path: Path) -> None:
    assert trainctl(*WORDS, "dataset.form=bad").code == 6
    (capsule,) = (tmp_path / "run" / "capsules").iterdir()
    replayed = trainctl("replay", str(capsule))
    assert "inputs (40, 1, 4, 4) (40, 1), targets (40,)" in replayed.out
    assert "nan" in replayed.out.lower()


def test_inputs_are_cut_joined_and_moved_like_a_tensor() -> None:
    samples = [Inputs({"a": torch.full((2,), number), "b": torch.tensor([number])}) for number in range(5)]
    batch = stacked(samples)
    assert (len(batch), [tuple(each.shape) for each in parts_of(batch)]) == (5, [(5, 2), (5, 1)])
    pieces = torch.tensor_split(batch, 2)
    assert [len(piece) for piece in pieces] == [3, 2]
    joined = torch.cat([piece.clone().to(torch.device("cpu")) for piece in pieces])
    picked = joined.index_select(0, torch.tensor([4, 0]))
    assert picked.parts["b"].tolist() == [[4], [0]]
    joined[:2] = batch[3:]
    assert joined.parts["a"][:, 0].tolist() == [3, 4, 2, 3, 4]


@pytest.mark.gpu
@pytest.mark.usefixtures("plugin")
def test_several_inputs_train_on_a_gpu(trainctl) -> None:
    outcome = trainctl(*WORDS, "device=cuda", "loader.workers=2")
    assert outcome.code == 0, outcome.err
    assert "steps are not captured as a CUDA graph: samples have several inputs" in outcome.out
