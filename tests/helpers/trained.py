"""Data of one's own to train on, for the verbs that use a run."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from trainctl import load
from trainctl.cli.main import main
from trainctl.inference.predict import Predictor
from trainctl.inference.trained_run import load_run

QUICK = ("threads=1", "display.mode=none")
# Formats of programs that can be exported here: onnxruntime is not to be had for every Python.
PROGRAMS = ("torch", "onnx") if find_spec("onnxruntime") else ("torch",)
COLOURS = ("red", "green", "blue")


def write_table(path: Path, rows: int, seed: int, *, shift: float = 0.0, colours=COLOURS) -> list[list[Any]]:
    """Rows of two numbers and a colour, whose class follows from the first number and the colour."""
    draw = random.Random(seed)
    table = []
    for number in range(rows):
        width, height, colour = draw.gauss(shift, 1), draw.gauss(50, 9), draw.choice(colours)
        kind = "yes" if width + (colour == "red") > 0 else "no"
        table.append([number, f"{width:.4f}", f"{height:.4f}", colour, kind])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "width", "height", "colour", "kind"], *table])
    return table


TABLE = (
    "dataset=csv",
    "dataset.path=table.csv",
    "dataset.drop=[id]",
    "model.hidden=[8]",
    "epochs=30",
    "lr=0.02",
)


def train_two(folder: Path, *words: str, table: Sequence[str] = ()) -> Path:
    """Two runs in a folder, on the digits (``words``) and on a table (TABLE and ``table``)."""
    assert main([*words, *QUICK, f"hydra.run.dir={folder / 'images'}"]) == 0
    write_table(folder / "table.csv", 200, seed=1)
    own = [word.replace("table.csv", str(folder / "table.csv")) for word in TABLE]
    assert main([*own, *QUICK, "batch_size=16", *table, f"hydra.run.dir={folder / 'table'}"]) == 0
    return folder


def reference(run: str, inputs: Tensor) -> Tensor:
    """The predictions of a run in memory."""
    trained = load_run(run)
    return Predictor(trained, trained.transform())(inputs)


def outputs_by_hand(rows: Sequence[Sequence[Any]], run: str = "table") -> Tensor:
    """The model's outputs for rows of the table, prepared here from the stored statistics."""
    state = json.loads((next((Path(run) / "checkpoints").iterdir()) / "state.json").read_text())
    stored = state["data"]["transform"]["tensors"]
    mean, std = (torch.tensor(stored[name]["values"]) for name in ("mean", "std"))
    numbers = torch.tensor([[float(row[1]), float(row[2])] for row in rows])
    spread = torch.tensor([[float(row[3] == colour) for colour in sorted(COLOURS)] for row in rows])
    with torch.no_grad():
        outputs: Tensor = load(run)(torch.cat([(numbers - mean) / std, spread], dim=1))
    return outputs


PLUGIN = """
import torch
from torch import nn
from trainctl.data import Data, Split
from trainctl.registry import DATASETS


class Centre(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.mean = inputs.mean(0)

    def forward(self, inputs):
        return inputs - self.mean


@DATASETS.register("own")
def own(shift: float = 0.0) -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(120, 4, generator=generator)
    targets = (inputs[:, 0] > 0).long()
    splits = Split(inputs[:90] + shift, targets[:90]), Split(inputs[90:] + shift, targets[90:])
    fit = lambda train: Centre(train.inputs)
    return Data("own", "classification", *splits, (4,), 2, nn.Identity(), fit=fit)
"""


TOKENS = """
import numpy
import torch
from torch import nn
from trainctl.data import Data, Split
from trainctl.registry import DATASETS, MODELS


@DATASETS.register("tokens")
def tokens(path: str = "ids.npy", type: str = "int64") -> Data:
    ids = torch.from_numpy(numpy.load(path)).to(getattr(torch, type))
    split = Split(ids, (ids[:, 0] > 20).long())
    return Data("tokens", "classification", split, split, tuple(ids.shape[1:]), 2, nn.Identity())


@MODELS.register("embedding")
class Embedding(nn.Module):
    def __init__(self, input_shape, output_size):
        super().__init__()
        self.table = nn.Embedding(40, 8)
        self.layer = nn.Linear(8 * input_shape[0], output_size)

    def forward(self, inputs):
        return self.layer(self.table(inputs).flatten(1))
"""


def train_on_tokens(trainctl, folder: Path) -> torch.Tensor:
    """Train on rows of token numbers; returns some of them."""
    ids = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(0))
    numpy.save(folder / "ids.npy", ids.numpy())
    (folder / "own.py").write_text(TOKENS)
    words = ("plugins=[./own.py]", "dataset.name=tokens", "model.name=embedding", "epochs=1", "batch_size=20")
    outcome = trainctl(*words, *QUICK, f"dataset.path={folder}/ids.npy", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    return ids[:9]
