"""CIFAR-10."""

from __future__ import annotations

from trainctl.data import Data
from trainctl.data.images.published import load_cifar
from trainctl.registry import DATASETS


@DATASETS.register("cifar10")
def cifar10(root: str = "data", download: bool = False) -> Data:
    """60,000 colour pictures of 32×32 pixels in 10 kinds: 50,000 to train and validate on, 10,000 to test.

    Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009). The files lie in torchvision's
    layout in ROOT; they are decoded by torchvision once and then read as tensors.

    Args:
        root: the folder that holds torchvision's folder.
        download: fetch the files when they are absent.

    Shape: inputs (N, 3, 32, 32) uint8, targets (N,) int64.
    """
    return load_cifar(
        "cifar10",
        "CIFAR10",
        "cifar-10-batches-py",
        root,
        download,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    )
