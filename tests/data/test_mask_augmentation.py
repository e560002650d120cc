"""Augmentation of images with masks: what moves a pixel moves its class, and what cannot is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.scenes import write_scenes
from trainctl.components.loaders.resident import ResidentLoader
from trainctl.components.loaders.workers import WorkersLoader
from trainctl.config.composer import Composer
from trainctl.data import ItemSplit, Split
from trainctl.data.augmentation import Augment, make_augment
from trainctl.errors import ConfigError
from trainctl.lessons.loaders.scratch import ScratchLoader
from trainctl.training.build import build

CPU = torch.device("cpu")
CLASSES = torch.randint(0, 40, (24, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
# Each pixel of an image tells its class: six times that, which a change of colours may blur.
SPLIT = Split((CLASSES * 6)[:, None].expand(-1, 3, -1, -1).contiguous(), CLASSES)
INDEX = torch.arange(24)
OWN = ["RandomHorizontalFlip", "RandomVerticalFlip", {"RandomCrop": {"size": 9, "padding": 3, "fill": 0}}]
OTHERS: list[Any] = [
    {"RandomRotation": {"degrees": 40}},
    {"RandomAffine": {"degrees": 10, "translate": [0.2, 0.2], "shear": 5}},
    {"RandomPerspective": {"p": 0.7, "interpolation": "nearest"}},
    {"RandomResizedCrop": {"size": [9, 9], "interpolation": "nearest"}},
    {"RandomApply": {"transforms": [{"RandomRotation": {"degrees": [90, 90]}}], "p": 0.5}},
    {"RandomCrop": {"size": 9, "padding": 2, "padding_mode": "reflect"}},
    {"RandomHorizontalFlip": {"p": 1.0}},
]


def item(number: int) -> Tensor:
    return SPLIT.inputs[number]


def made(entries: list[Any], seed: int = 0) -> Augment:
    augment = make_augment(entries, SPLIT, seed, masks=True)
    assert augment is not None
    return augment


@pytest.mark.parametrize("entries", [OWN, *([each] for each in OTHERS)], ids=str)
def test_the_class_of_a_pixel_goes_where_the_pixel_goes(entries: list[Any]) -> None:
    images, masks = made(entries).both(SPLIT.inputs, SPLIT.targets, INDEX, 2)
    assert type(images) is type(masks) is Tensor
    counted = masks != 255
    assert 0.4 < counted.float().mean() <= 1
    assert torch.equal((images[:, 0] // 6)[counted], masks[counted])
    # What came from outside of the image is ignored.
    assert bool((images[:, 0][~counted] == 0).all())
    changed = (masks != SPLIT.targets).flatten(1).any(1)
    assert changed.any()
    assert torch.equal(SPLIT.inputs[:, 0], CLASSES * 6)


def test_colours_change_no_mask() -> None:
    images, masks = made([{"ColorJitter": {"brightness": 0.5}}, "RandomGrayscale"]).both(
        SPLIT.inputs, SPLIT.targets, INDEX, 0
    )
    assert torch.equal(masks, SPLIT.targets)
    assert not torch.equal(images, SPLIT.inputs)


def test_images_change_as_without_masks() -> None:
    alone = make_augment([*OWN, OTHERS[3]], SPLIT, 5)
    assert alone is not None
    images, _ = made([*OWN, OTHERS[3]], 5).both(SPLIT.inputs, SPLIT.targets, INDEX, 1)
    assert torch.equal(images, alone(SPLIT.inputs, INDEX, 1))


@pytest.mark.parametrize("kind", [ResidentLoader, WorkersLoader, ScratchLoader])
def test_every_loader_gives_the_same_pairs(kind: Any) -> None:
    split: Any = SPLIT if kind is not WorkersLoader else ItemSplit(range(24), CLASSES, item)
    more = {"workers": 0} if kind is WorkersLoader else {}
    batches = list(kind(split, nn.Identity(), 7, CPU, 3, made(OWN), **more).batches())
    assert [len(batch.targets) for batch in batches] == [7, 7, 7, 3]
    for batch in batches:
        counted = batch.targets != 255
        assert torch.equal((batch.inputs[:, 0] // 6)[counted], batch.targets[counted])
    assert not torch.equal(torch.cat([batch.targets for batch in batches]), CLASSES)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("RandomErasing", "erases in images, and not in their masks"),
        ({"RandomApply": {"transforms": ["RandomErasing"]}}, "erases in images"),
        ("RandAugment", "fails on a mask: Inputs of type Mask are not supported by RandAugment"),
        ({"FiveCrop": {"size": 9}}, "FiveCrop"),
    ],
)
def test_what_cannot_change_masks_is_refused(entry: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.augment") as error:
        made([entry])
    assert said in str(error.value)


def test_a_loader_that_leaves_masks_as_they_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="changes images, and not their masks"):
        made(OWN)(SPLIT.inputs, INDEX, 0)


def test_mixing_is_refused(trainctl: Any, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 20)
    for key in ("mixup", "cutmix"):
        outcome = trainctl("dataset=mask_folder", "model=unet", f"dataset.{key}=0.2", "threads=1")
        assert outcome.code == 2
        assert f"dataset.{key}: targets of torch.uint8 cannot be mixed" in outcome.err


def test_a_batch_ignores_what_was_cut_in_from_outside() -> None:
    words = ("dataset=shapes", "++dataset.samples=40", "++dataset.size=8", "model=unet", "++model.widths=[4]")
    crop = "++dataset.augment=[{RandomCrop: {size: 8, padding: 2}}]"
    batch, plain = (
        next(iter(build(Composer().compose([*words, *more]).config).run.train_loader.batches()))
        for more in ((crop,), ())
    )
    assert batch.targets.dtype == torch.int64
    assert bool((batch.targets == -100).any())
    assert not bool((plain.targets < 0).any())
