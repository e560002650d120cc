"""The U-Net: images of any size, every parameter trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainctl.components.models.unet import UNet
from trainctl.errors import ConfigError


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (5, 40), (1, 1), (3, 2)])
@pytest.mark.parametrize("widths", [[8], [4, 8, 8, 16]])
def test_images_of_any_size(size: tuple[int, int], widths: list[int]) -> None:
    model = UNet((2, *size), 5, widths=widths)
    assert model(torch.randn(3, 2, *size)).shape == (3, 5, *size)


@pytest.mark.parametrize("normalization", ["group", "batch", "none"])
def test_every_parameter_has_a_gradient(normalization: Any) -> None:
    torch.manual_seed(0)
    model = UNet((3, 13, 10), 4, widths=[4, 6, 8], normalization=normalization)
    model(torch.randn(2, 3, 13, 10)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_pixel_sees_far_and_near() -> None:
    torch.manual_seed(0)
    model = UNet((1, 33, 33), 2, widths=[4, 4, 4, 4])
    image = torch.randn(1, 1, 33, 33, requires_grad=True)
    model(image)[0, 0, 16, 16].backward()
    assert image.grad is not None
    seen = image.grad[0, 0].abs() > 0
    assert bool(seen[16, 16])
    assert bool(seen[:, 2].any() and seen[2].any() and seen[30].any())


@pytest.mark.parametrize(
    ("shape", "widths", "said"), [((20,), [4], "takes images"), ((3, 8, 8), [], "at least one level")]
)
def test_what_it_cannot_be(shape: tuple[int, ...], widths: list[int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        UNet(shape, 3, widths=widths)
