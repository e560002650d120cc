"""Drawn shapes: the same for a seed, of every class, and where the mask says."""

from __future__ import annotations

import torch

from trainctl.components.datasets.shapes import CLASSES, drawn, shapes


def test_the_seed_alone_decides_what_is_drawn() -> None:
    one, again, other = (drawn(20, 16, seed) for seed in (3, 3, 4))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_every_class_is_there_and_the_colour_says_nothing_of_it() -> None:
    data = shapes(samples=300, test_samples=50, size=24)
    images, masks = data.train.inputs, data.train.targets  # type: ignore[union-attr]
    assert images.shape == (300, 3, 24, 24)
    assert masks.shape == (300, 24, 24)
    assert images.dtype == masks.dtype == torch.uint8
    assert len(data.test) == 50  # type: ignore[arg-type]
    shares = torch.bincount(masks.flatten()) / masks.numel()
    assert len(shares) == len(CLASSES) == data.output_size
    assert shares.min() > 0.03
    assert bool((masks.flatten(1) > 0).any(1).all())
    pixels = images.float().mean(1)
    means = [pixels[masks == number].mean() for number in range(4)]
    assert max(means[1:]) - min(means[1:]) < 8
    assert min(means[1:]) - means[0] > 60
