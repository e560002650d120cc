"""CIFAR-100."""

from __future__ import annotations

from trainctl.data import Data
from trainctl.data.images.published import load_cifar
from trainctl.registry import DATASETS


@DATASETS.register("cifar100")
def cifar100(root: str = "data", download: bool = False) -> Data:
    """60,000 colour pictures of 32×32 pixels in 100 kinds: 50,000 to train and validate on, 10,000 to test.

    Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009). The files lie in torchvision's
    layout in ROOT; they are decoded by torchvision once and then read as tensors.

    Args:
        root: the folder that holds torchvision's folder.
        download: fetch the files when they are absent.

    Shape: inputs (N, 3, 32, 32) uint8, targets (N,) int64.
    """
    return load_cifar(
        "cifar100",
        "CIFAR100",
        "cifar-100-python",
        root,
        download,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
    )
