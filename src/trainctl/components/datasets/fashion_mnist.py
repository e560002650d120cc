"""Fashion-MNIST."""

from __future__ import annotations

from trainctl.data import Data
from trainctl.data.images.published import load_idx
from trainctl.registry import DATASETS

_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@DATASETS.register("fashion_mnist")
def fashion_mnist(root: str = "data", download: bool = False) -> Data:
    """70,000 pictures of clothes of 28×28 pixels in ten kinds: 60,000 to train and validate on.

    Xiao, Rasul and Vollgraf, Fashion-MNIST (2017). The files lie in ROOT/FashionMNIST/raw, torchvision's
    layout, plain or gzipped; they are decoded once and then read as tensors.

    Args:
        root: the folder that holds FashionMNIST/raw.
        download: fetch the files when they are absent.

    Shape: inputs (N, 1, 28, 28) uint8, targets (N,) int64 from 0 to 9.
    """
    return load_idx("fashion_mnist", "FashionMNIST", root, download, _CLASSES, mean=0.2860, std=0.3530)
