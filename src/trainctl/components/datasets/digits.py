"""The embedded digits."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from trainctl.data import Data, Split, Standardize
from trainctl.registry import DATASETS

_TRAIN = 1500


@DATASETS.register("digits")
def digits() -> Data:
    """1,797 real handwritten digits of 8×8 pixels; shipped with trainctl, so it needs no network.

    1,500 to train and validate on, 297 to test. E. Alpaydin and C. Kaynak, Optical Recognition of
    Handwritten Digits, UCI Machine Learning Repository (1998), CC BY 4.0.

    Shape: inputs (N, 1, 8, 8) uint8 from 0 to 16, targets (N,) int64 from 0 to 9.
    """
    stored = load_file(Path(__file__).with_name("digits.safetensors"))
    images, labels = stored["images"].unsqueeze(1), stored["labels"].to(torch.int64)
    return Data(
        name="digits",
        task="classification",
        train=Split(images[:_TRAIN], labels[:_TRAIN]),
        test=Split(images[_TRAIN:], labels[_TRAIN:]),
        input_shape=(1, 8, 8),
        output_size=10,
        transform=Standardize(scale=16.0, mean=0.305, std=0.376),
        classes=tuple("0123456789"),
        note="embedded",
        reading={"kind": "image", "resize": "crop", "largest": 16},
    )
