"""Folders of images and masks: what is read, and what is refused with file, sizes and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.helpers.scenes import numbers, write_scenes
from trainctl.components.datasets.mask_folder import mask_folder
from trainctl.components.datasets.shapes import drawn
from trainctl.data import ItemSplit
from trainctl.errors import ConfigError, MissingDataError


def put(path: Path, values: Any, mode: str | None = None) -> None:
    image = Image.fromarray(numpy.asarray(values, dtype=numpy.uint8))
    (image.convert(mode) if mode else image).save(path)


@pytest.mark.parametrize("cache", [True, False])
def test_pixels_and_their_classes(cache: bool, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 12, border=1)
    images, masks = drawn(12, 12, 0)
    for _ in range(2):  # the second time from the cache
        data = mask_folder(str(tmp_path / "scenes"), cache=cache)
        assert (data.task, data.output_size, data.input_shape, data.val) == (
            "segmentation",
            4,
            (3, 12, 12),
            None,
        )
        made = (
            data.train.inputs if cache else torch.stack([data.train.load(each) for each in data.train.items])
        )  # type: ignore[union-attr]
        assert torch.equal(made, images)
        assert torch.equal(data.train.targets[1:, 1:-1, 1:-1], masks[1:, 1:-1, 1:-1])
        assert bool((data.train.targets[:, 0] == 255).all() & (data.train.targets[0] == 255).all())
        assert "% of the pixels are ignored" in data.note
    assert isinstance(data.train, ItemSplit) == (not cache)
    assert (tmp_path / ".scenes.trainctl").exists() == cache


def test_splits_of_their_own_and_images_without_a_mask(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "val", "test")):
        write_scenes(tmp_path / name, 6, seed=seed)
    (tmp_path / "train" / "masks" / "001.png").unlink()
    data = mask_folder(str(tmp_path), cache=False)
    assert [len(split or ()) for split in (data.train, data.val, data.test)] == [5, 6, 6]
    assert "1 image without a mask left out" in data.note


def test_masks_are_grey_black_and_white_or_of_a_palette(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    classes = numpy.arange(16).reshape(4, 4) % 2
    for name, mode in (("a", None), ("b", "1"), ("c", "P")):
        put(tmp_path / "images" / f"{name}.jpg", numpy.full((4, 4, 3), 90))
        values = classes * 255 if mode == "1" else classes
        if mode == "P":
            image = Image.fromarray(values.astype(numpy.uint8), "L")
            image.putpalette([9, 9, 9, 200, 0, 0])
            image.save(tmp_path / "masks" / f"{name}.png")
        else:
            put(tmp_path / "masks" / f"{name}.png", values, mode)
    targets = mask_folder(str(tmp_path), cache=False).train.targets
    assert torch.equal(targets, torch.from_numpy(classes).expand(3, 4, 4))


def test_values_stand_for_classes_in_their_order(tmp_path: Path) -> None:
    write_scenes(tmp_path, 3)
    for path in (tmp_path / "masks").iterdir():
        put(path, numpy.where(numbers(path) > 0, 255, 0))
    with pytest.raises(ConfigError, match="have the values 0, and 255, which is ignored") as error:
        mask_folder(str(tmp_path), cache=False)
    assert "dataset.values=[0, 255]" in error.value.problems[0].remedy
    data = mask_folder(str(tmp_path), values=[0, 255], classes=["back", "thing"], cache=False)
    assert data.classes == ("back", "thing")
    assert torch.equal(data.train.targets, (drawn(3, 12, 0)[1] > 0).to(torch.uint8))
    data = mask_folder(str(tmp_path), values=[255], ignore=0, classes=1, cache=False)
    assert data.train.targets.unique().tolist() == [0, 255]


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_image_and_mask_are_resized_alike(resize: Any, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    blocks = numpy.kron(numpy.random.default_rng(0).integers(0, 2, (4, 6)), numpy.ones((8, 8)))
    for number in range(2):
        put(tmp_path / "images" / f"{number}.png", blocks * 255)
        put(tmp_path / "masks" / f"{number}.png", blocks)
    data = mask_folder(str(tmp_path), size=(8, 8), resize=resize, cache=False, channels=1)
    image = data.train.load(data.train.items[0])[0]  # type: ignore[union-attr]
    sure = (image < 40) | (image > 215)
    assert sure.float().mean() > 0.5
    assert torch.equal((image > 128)[sure], (data.train.targets[0] == 1)[sure])


def spoil_size(root: Path) -> None:
    put(root / "masks" / "002.png", numpy.zeros((12, 10)))


def spoil_colours(root: Path) -> None:
    put(root / "masks" / "002.png", numpy.zeros((12, 12, 3)))


def spoil_class(root: Path) -> None:
    put(root / "masks" / "002.png", numpy.full((12, 12), 4))


def spoil_deep(root: Path) -> None:
    Image.fromarray(numpy.full((12, 12), 999, dtype=numpy.uint16)).save(root / "masks" / "002.png")


def spoil_other_size(root: Path) -> None:
    put(root / "images" / "002.png", numpy.zeros((6, 5, 3)))
    put(root / "masks" / "002.png", numpy.zeros((6, 5)))


def spoil_jpeg(root: Path) -> None:
    (root / "masks" / "002.png").unlink()
    put(root / "masks" / "002.jpg", numpy.zeros((12, 12)))


def spoil_stranger(root: Path) -> None:
    put(root / "masks" / "other.png", numpy.zeros((12, 12)))


def spoil_twin(root: Path) -> None:
    put(root / "images" / "002.bmp", numpy.zeros((12, 12, 3)))


def spoil_mask(root: Path) -> None:
    (root / "masks" / "002.png").write_bytes(b"no picture")


def spoil_image(root: Path) -> None:
    (root / "images" / "002.png").write_bytes(b"no picture")


def spoil_all(root: Path) -> None:
    for path in (root / "masks").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "settings", "said", "remedy"),
    [
        (spoil_size, {}, r"002.png has 12×10 pixels \(height×width\), its image .* 12×12", "of its image"),
        (spoil_colours, {}, r"RGB, \(12, 12, 3\); a mask has one number a pixel, \(12, 12\)", "grey"),
        (spoil_class, {"values": [0, 1, 2, 3]}, "value 4 in 144 of 144 pixels; classes are 0, 1", "add"),
        (spoil_deep, {}, "has the value 999; a mask has values from 0 to 255", "number the classes"),
        (spoil_other_size, {}, r"has 6×5 pixels \(height×width\), the first 12×12", r"size=[12,12]"),
        (spoil_jpeg, {}, "002.jpg does not keep the value of each pixel", "save masks as .png"),
        (spoil_stranger, {}, "other.png is the mask of no image", "a mask has the name of its image"),
        (spoil_twin, {}, "have one name", "rename"),
        (spoil_mask, {}, "masks/002.png is broken", "repair or remove it"),
        (spoil_image, {}, "images/002.png is broken", "repair or remove it"),
        (spoil_all, {}, "holds no masks", ".png"),
        (None, {"values": [0, 0]}, "must be different numbers", ""),
        (None, {"values": [0, 1], "classes": 3}, "2 numbers for 3 classes", "one number a class"),
        (None, {"ignore": 3}, "have the values 0, 1, 2", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    spoil: Any, settings: dict[str, Any], said: str, remedy: str, tmp_path: Path
) -> None:
    write_scenes(tmp_path, 6)
    if spoil:
        spoil(tmp_path)
    if settings.get("ignore") == 3:  # a class that is ignored leaves no gap
        assert mask_folder(str(tmp_path), cache=False, **settings).output_size == 3
        return
    with pytest.raises(ConfigError, match=said) as error:
        mask_folder(str(tmp_path), cache=False, **settings)
    assert remedy in error.value.problems[0].remedy


def test_a_class_that_the_masks_do_not_have_is_no_guess(tmp_path: Path) -> None:
    write_scenes(tmp_path, 6)
    spoil_class(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        put(path, numpy.where(numbers(path) == 2, 3, numbers(path)))
    with pytest.raises(ConfigError, match="have the values 0, 1, 3, 4: these do not number classes from 0"):
        mask_folder(str(tmp_path), cache=False)
    assert mask_folder(str(tmp_path), classes=5, cache=False).output_size == 5
    # As other data of a trained model it has the model's classes.
    assert mask_folder(str(tmp_path), like={"classes": 6}, cache=False).output_size == 6


def test_a_changed_image_is_decoded_again(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "scenes", 6)
    before = mask_folder(str(root)).train.targets
    put(root / "masks" / "003.png", numpy.zeros((12, 12)))
    after: Tensor = mask_folder(str(root)).train.targets
    assert not after[3].any()
    assert torch.equal(after[:3], before[:3])
    put(root / "images" / "004.png", numpy.zeros((9, 9, 3)))
    with pytest.raises(ConfigError, match="its image"):
        mask_folder(str(root))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="there is no folder") as error:
        mask_folder(str(tmp_path / "absent"))
    assert error.value.make is not None
