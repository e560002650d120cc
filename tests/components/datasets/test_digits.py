"""The embedded digits."""

from __future__ import annotations

import torch

from trainctl.components.datasets.digits import digits
from trainctl.components.tasks._base import with_targets


def test_sizes_types_and_ranges() -> None:
    data = digits()
    assert data.test is not None
    assert (len(data.train), len(data.test), data.val) == (1500, 297, None)
    for split in (data.train, data.test):
        assert split.inputs.dtype == torch.uint8
        assert split.inputs.shape[1:] == data.input_shape == (1, 8, 8)
        assert (int(split.inputs.min()), int(split.inputs.max())) == (0, 16)
        assert split.targets.dtype == torch.int64
        assert split.targets.shape == (len(split),)
        assert split.targets.unique().tolist() == list(range(10))
    assert data.task == "classification"
    assert data.output_size == len(data.classes) == 10
    with_targets(data)


def test_the_transform_centres_the_training_images() -> None:
    data = digits()
    outputs = data.transform(data.train.inputs)
    assert outputs.dtype == torch.float32
    assert abs(outputs.mean().item()) < 0.01
    assert abs(outputs.std().item() - 1) < 0.01


def test_no_image_of_the_test_is_one_of_the_training() -> None:
    data = digits()
    assert data.test is not None
    train = {bytes(image.flatten().tolist()) for image in data.train.inputs}
    test = {bytes(image.flatten().tolist()) for image in data.test.inputs}
    assert not train & test


def test_the_digits_can_be_told_apart() -> None:
    """The nearest training image has the right number almost always: images and labels belong together."""
    data = digits()
    assert data.test is not None
    train, test = (split.inputs.flatten(1).float() for split in (data.train, data.test))
    nearest = torch.cdist(test, train).argmin(1)
    assert (data.train.targets[nearest] == data.test.targets).float().mean() > 0.95
