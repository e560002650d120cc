"""MNIST."""

from __future__ import annotations

from trainctl.data import Data
from trainctl.data.images.published import load_idx
from trainctl.registry import DATASETS


@DATASETS.register("mnist")
def mnist(root: str = "data", download: bool = False) -> Data:
    """70,000 real handwritten digits of 28×28 pixels: 60,000 to train and validate on, 10,000 to test.

    LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition (1998).
    The files lie in ROOT/MNIST/raw, torchvision's layout, plain or gzipped; they are decoded
    once and then read as tensors from ROOT/MNIST.

    Args:
        root: the folder that holds MNIST/raw.
        download: fetch the files when they are absent.

    Shape: inputs (N, 1, 28, 28) uint8, targets (N,) int64 from 0 to 9.
    """
    return load_idx("mnist", "MNIST", root, download, tuple("0123456789"), mean=0.1307, std=0.3081)
