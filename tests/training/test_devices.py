"""A run on several devices is the run on one: losses, evaluations, weights, decisions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.ranks import warm_ranks as warm_ranks

pytestmark = pytest.mark.usefixtures("warm_ranks")
FEW = ("threads=1", "dataset.limit=203", "train.batch_size=32", "train.epochs=2", "display.mode=none")


def rows(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def weights(run: str) -> dict[str, torch.Tensor]:
    newest = sorted(Path(run, "checkpoints").glob("step-*"))[-1]
    return load_file(newest / "model.safetensors")


def assert_same_run(one: str, other: str, tolerance: float = 2e-6) -> None:
    """Every loss, every evaluation and the final weights."""
    both = list(zip(rows(one), rows(other), strict=True))
    assert len(both) > 8
    for left, right in both:
        assert left.keys() == right.keys()
        for key, value in left.items():
            if key in ("samples_per_second", "seconds"):
                continue
            assert right[key] == pytest.approx(value, rel=tolerance, abs=tolerance), (key, left["step"])
    mine, theirs = weights(one), weights(other)
    for name, tensor in mine.items():
        assert torch.allclose(tensor.float(), theirs[name].float(), rtol=1e-4, atol=20 * tolerance), name


@pytest.mark.parametrize(
    ("words", "devices"),
    [
        (("optim=adam",), 2),
        (("optim=adam",), 3),
        (("optim=sgd_momentum", "lr=0.1", "train.clip_norm=0.1"), 3),
        # The windows of the last epoch's end, and the batches in them, are smaller than the others.
        (("train.accumulate=3", "loss.class_weights=balanced"), 2),
        (("train.accumulate=2", "train.batch_size=4", "dataset.limit=61"), 3),
        # The last batch has one sample: fewer than devices.
        (("loss.class_weights=balanced", "dataset.limit=191"), 3),
        (("train.ema=0.9", "scheduler=reduce_on_plateau", "scheduler.patience=0"), 2),
        (("model.freeze=[layers.0.*]", "optim=adamw"), 2),
        (("guard=full", "train.patience=1", "lr=0.03", "train.epochs=5"), 2),
        (("dataset=thermometer", "model=linear", "loss=huber", "optim=rmsprop"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_every_number_is_that_of_one_device(
    words: tuple[str, ...], devices: int, trainctl: Callable[..., Any]
) -> None:
    given = [*FEW, *words]
    for run, count in (("one", 1), ("several", devices)):
        outcome = trainctl(*given, f"devices={count}", f"hydra.run.dir={run}")
        assert outcome.code == 0, outcome.err
    assert_same_run("one", "several")


@pytest.fixture
def images(tmp_path: Path) -> str:
    """A folder of 40 tiny pictures in two classes, loaded one by one."""
    from PIL import Image

    for name, shade in (("dark", 40), ("light", 200)):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(20):
            Image.new("L", (4, 4), shade + number).save(folder / f"{number}.png")
    return str(tmp_path / "images")


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_loaded_one_by_one_are_loaded_by_the_process_that_needs_them(
    workers: int, images: str, trainctl: Callable[..., Any]
) -> None:
    given = (
        "threads=1", "dataset=image_folder", f"dataset.root={images}", "dataset.val=0.2", "dataset.size=4",
        "dataset.cache=false", "dataset.augment=[flip]", "loader=workers", f"loader.workers={workers}",
        "train.batch_size=5", "train.epochs=2",
    )  # fmt: skip
    for run, count in (("one", 1), ("several", 2)):
        outcome = trainctl(*given, f"devices={count}", f"hydra.run.dir={run}")
        assert outcome.code == 0, outcome.err
    assert_same_run("one", "several")


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2), (2, 3)])
def test_a_run_resumes_on_any_number_of_devices(
    before: int, after: int, trainctl: Callable[..., Any]
) -> None:
    given = (*FEW, "checkpoint.every_steps=3", "checkpoint.keep_last=10")
    assert trainctl(*given, f"devices={before}", "hydra.run.dir=whole").code == 0
    assert trainctl(*given, f"devices={before}", "train.max_steps=10", "hydra.run.dir=parts").code == 0
    outcome = trainctl("resume", "parts", "train.max_steps=null", f"devices={after}")
    assert outcome.code == 0, outcome.err
    assert_same_run("whole", "parts")
    if before == after:
        for name, tensor in weights("whole").items():
            assert torch.equal(tensor, weights("parts")[name])
