"""Training labels that are changed at random: which, how many, and what they leave alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.runs import EVERY, WORDS, killed_after, same_end
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.data import Data, Split, Standardize
from trainctl.errors import ConfigError
from trainctl.registry import TASKS
from trainctl.training.build import build
from trainctl.training.label_noise import with_label_noise


def data_of(*words: str) -> Data:
    return build(Composer().compose([*map(to_hydra, words), "threads=1"]).config).data


def labels(data: Data, split: str = "train") -> torch.Tensor:
    return getattr(data, split).targets


def test_the_share_of_training_labels_is_of_another_class_and_all_else_as_it_was() -> None:
    plain, noisy = data_of(), data_of("dataset.label_noise=0.2", "seed=5")
    changed = labels(plain) != labels(noisy)
    assert int(changed.sum()) == round(0.2 * len(changed)) == 255
    assert labels(noisy).dtype == labels(plain).dtype
    # Each other class is as likely: 255 steps over 9 distances, of which each has 28 on average.
    steps = (labels(noisy) - labels(plain))[changed] % 10
    assert int(torch.bincount(steps, minlength=10)[1:].min()) > 10
    for split in ("val", "test"):
        assert torch.equal(labels(plain, split), labels(noisy, split))
    assert torch.equal(plain.train.inputs, noisy.train.inputs)
    assert noisy.label_noise == "255 of 1,275 training labels are changed (dataset.label_noise=0.2)"
    assert torch.equal(labels(noisy), labels(data_of("dataset.label_noise=0.2")))
    others = data_of("dataset.label_noise=0.2", "dataset.split_seed=1", "dataset.val=0")
    plainer = data_of("dataset.val=0")
    assert not torch.equal((labels(others) != labels(plainer))[: len(changed)], changed)


def made(task: str, targets: torch.Tensor, outputs: int) -> Data:
    split = Split(torch.zeros(len(targets), 1), targets)
    return Data("made", task, split, split, (1,), outputs, Standardize())


@pytest.mark.parametrize(
    ("task", "targets", "outputs"),
    [
        ("classification", torch.arange(100) % 4, 4),
        ("classification", torch.zeros(50, dtype=torch.int64), 2),
        ("text_classification", torch.arange(100) % 3, 3),
        ("ordinal", (torch.arange(120)[:, None] % 4 >= torch.arange(1, 4)).float(), 3),
        ("multilabel", (torch.arange(90)[:, None] % torch.tensor([2, 3, 5]) == 0).float(), 3),
        ("segmentation", torch.arange(2 * 8 * 8).reshape(2, 8, 8) % 3, 3),
    ],
)  # fmt: skip
def test_each_task_with_classes_changes_its_own_labels(task: str, targets: Any, outputs: int) -> None:
    noisy = with_label_noise(made(task, targets, outputs), {"label_noise": 0.25}).train.targets
    assert (noisy.dtype, noisy.shape) == (targets.dtype, targets.shape)
    if task == "ordinal":  # of a class are all below it, too
        assert torch.equal(noisy, noisy.sort(1, descending=True).values)
        noisy, targets = noisy.sum(1), targets.sum(1)
    assert int((noisy != targets).sum()) == round(0.25 * targets.numel())
    assert int(noisy.max()) <= outputs
    assert int(noisy.min()) >= 0


def test_pixels_that_are_ignored_stay_so() -> None:
    masks = torch.randint(0, 3, (4, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    masks[:, :3] = 255
    data = with_label_noise(made("segmentation", masks, 3), {"label_noise": 0.5})
    noisy = data.train.targets
    assert torch.equal(noisy == 255, masks == 255)
    assert noisy.dtype == torch.uint8
    assert int((noisy != masks).sum()) == 4 * 18 // 2
    assert data.label_noise.startswith("36 of 72 ")


def test_what_has_no_other_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="no other class"):
        with_label_noise(made("classification", torch.zeros(9, dtype=torch.int64), 1), {"label_noise": 0.5})
    targets = {
        "regression": torch.rand(9, 1),
        "autoencoder": torch.rand(9, 1),
        "language_model": torch.ones(9, 4),
    }
    classless = {
        name for name in TASKS.names() if TASKS.load(name).relabelled is TASKS.load("regression").relabelled
    }
    assert classless == targets.keys()
    for task, given in targets.items():
        with pytest.raises(ConfigError, match="needs classes, the targets are"):
            with_label_noise(made(task, given, 1), {"label_noise": 0.5})


def test_a_run_says_it_and_goes_on_with_the_same_labels(trainctl: Callable[..., Any], tmp_path: Path) -> None:
    words = ("dataset.label_noise=0.3", "threads=1", "lr=0.01", "epochs=2")
    outcome = trainctl(*words, "hydra.run.dir=run")
    assert "labels    382 of 1,275 training labels are changed" in outcome.out
    assert json.loads((tmp_path / "run/run.json").read_text())["environment"]["label_noise"]
    assert "the same as recorded in the run" in trainctl("eval", "run").out
    seen = trainctl("eval", "run", "--split", "train").out
    assert "382 of 1,275 training labels are changed" in seen
    # Of all samples the labels are the true ones.
    scores = {
        split: json.loads(trainctl("eval", "run", "--split", split, "--json").out)["values"][
            f"{split}/accuracy"
        ]
        for split in ("train", "all")
    }
    assert scores["train"] + 0.1 < scores["all"]
    assert trainctl("resume", "run", "epochs=3").code == 0
    assert trainctl("verify", "run").code == 0
    refused = trainctl("resume", "run", "dataset.label_noise=0.1", "epochs=4")
    assert "dataset.label_noise: 0.3 → 0.1: the run so far was trained on different data" in refused.err
    assert "other targets in train" in trainctl("dataset.label_noise=0.1", "init_from=run", "epochs=1").out


def test_a_killed_run_goes_on_to_the_same_bits(trainctl: Callable[..., Any], tmp_path: Path) -> None:
    assert trainctl(*WORDS, *EVERY, "dataset.label_noise=0.3").code == 0
    cut = killed_after(tmp_path / "run", 6)
    assert trainctl("resume", "cut").code == 0
    assert same_end(tmp_path / "run", cut)
