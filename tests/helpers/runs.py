"""Runs of twelve steps, what they left, and what a kill or a flipped bit makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from trainctl.checkpoint.format import MODEL, TRAINING, folder_name

STEPS = 12
WORDS = ("epochs=3", "batch_size=320", "threads=1", "model.hidden=[16]", "model.dropout=0.3")
EVERY = ("checkpoint.every_steps=1", "checkpoint.keep_last=100", "display.mode=none", "hydra.run.dir=run")


def record(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "run.json").read_text())


def config(directory: Path) -> dict[str, Any]:
    return yaml.safe_load((directory / "config.yaml").read_text())


def metrics(directory: Path) -> list[dict[str, Any]]:
    """What was measured, without how long it took."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key != "samples_per_second"} for line in lines]


def learning_rates(directory: Path) -> list[float]:
    return [line["lr"] for line in metrics(directory) if "lr" in line]


def saved(directory: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted(directory.glob("checkpoints/step-*"))]


def at(directory: Path, step: int) -> Path:
    return directory / "checkpoints" / folder_name(step)


def state(directory: Path, step: int) -> dict[str, Any]:
    """The state of a checkpoint, without what time has a part in."""
    values = json.loads((at(directory, step) / "state.json").read_text())
    values["parts"].pop("metrics_log")
    return {key: values[key] for key in values if key not in ("epoch_seconds", "epoch_samples")}


def everything(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def killed_after(source: Path, step: int, name: str = "cut") -> Path:
    """A copy of a run as a kill leaves it whose newest checkpoint is that of ``step``."""
    target = source.with_name(name)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    for each in saved(target):
        if each > step:
            shutil.rmtree(at(target, each))
    values = {**record(target), "status": "running", "exit_code": None, "ended": None, "test": None}
    (target / "run.json").write_text(json.dumps(values))
    return target


def same_end(one: Path, other: Path, step: int = STEPS) -> bool:
    files = all(
        (at(one, step) / name).read_bytes() == (at(other, step) / name).read_bytes()
        for name in (MODEL, TRAINING)
    )
    return files and state(one, step) == state(other, step) and metrics(one) == metrics(other)


PLUGIN = """
import torch
from trainctl.data import Data, ItemSplit, Standardize
from trainctl.registry import DATASETS

def load(item):
    return (torch.rand(1, 4, 4) * 255).to(torch.uint8)

@DATASETS.register("items")
def items(samples: int = 600) -> Data:
    split = ItemSplit(range(samples), torch.arange(samples) % 10, load)
    return Data("items", "classification", split, None, (1, 4, 4), 10, Standardize(255.0, 0.5, 0.25))
"""
FED = ("plugins=[./items.py]", "dataset.name=items", "dataset.val=0.1", "batch_size=135")


def damage(directory: Path, step: int, name: str = TRAINING) -> None:
    path = at(directory, step) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_table(path: Path, shift: int = 0) -> None:
    rows = [f"{n % 7},{n % 5},{n * n % 11},{'abc'[(n + shift) % 3]}" for n in range(300)]
    path.write_text("\n".join(["a,b,c,label", *rows]) + "\n")


TABLE = (
    "dataset=csv",
    "dataset.path=table.csv",
    "dataset.target=label",
    "batch_size=64",
    "epochs=3",
    "threads=1",
)
OWN = """
from torch import optim
from trainctl.registry import SCHEDULERS
from trainctl.components.schedulers.none import none

@SCHEDULERS.register("own")
def own(optimizer, step_size: int = 2):
    return optim.lr_scheduler.StepLR(optimizer, step_size)
"""


def weights(directory: Path) -> list[bytes]:
    """The parameters' files of all checkpoints, in the order of their steps."""
    return [path.read_bytes() for path in sorted(directory.glob("checkpoints/*/model.safetensors"))]
