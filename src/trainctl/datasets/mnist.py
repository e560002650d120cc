"""MNIST."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from trainctl.data import Data, Split, Standardize
from trainctl.datasets._cache import cached
from trainctl.errors import ConfigError, MissingDataError
from trainctl.registry import DATASETS

_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
_STAND_IN = {"task": "classification", "shape": [1, 28, 28], "outputs": 10}


@DATASETS.register("mnist")
def mnist(root: str = "data", download: bool = False) -> Data:
    """70,000 real handwritten digits of 28×28 pixels: 60,000 to train and validate on, 10,000 to test.

    LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition (1998).
    The files lie in ROOT/MNIST/raw, torchvision's layout, plain or gzipped; they are decoded by torchvision
    once and then read as tensors from ROOT/MNIST.

    Args:
        root: the folder that holds MNIST/raw.
        download: fetch the files when they are absent.

    Shape: inputs (N, 1, 28, 28) uint8, targets (N,) int64 from 0 to 9.
    """
    raw = Path(root).expanduser() / "MNIST" / "raw"
    if download and any(_find(raw, name) is None for name in _FILES.values()):
        _download(Path(root).expanduser())
    found = {part: _find(raw, name) for part, name in _FILES.items()}
    missing = [_FILES[part] for part, path in found.items() if path is None]
    if missing:
        raise MissingDataError(
            f"dataset=mnist: {', '.join(missing)} not found in {raw.absolute()}",
            "name the folder that holds MNIST/raw with dataset.root=DIR, or fetch it: dataset.download=true",
            stand_in=_STAND_IN,
        )
    sources = {part: path for part, path in found.items() if path is not None}
    tensors, note = cached(
        raw.parent / "trainctl-1.safetensors", list(sources.values()), lambda: _decode(sources)
    )
    return Data(
        name="mnist",
        task="classification",
        train=Split(tensors["train_images"], tensors["train_labels"]),
        test=Split(tensors["test_images"], tensors["test_labels"]),
        input_shape=(1, 28, 28),
        output_size=10,
        transform=Standardize(scale=255.0, mean=0.1307, std=0.3081),
        classes=tuple("0123456789"),
        note=note,
    )


def _find(raw: Path, name: str) -> Path | None:
    candidates = (raw / name, raw / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _download(root: Path) -> None:
    from torchvision.datasets import MNIST

    try:
        MNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"dataset=mnist: the download failed: {reason}",
            f"put the four files into {root / 'MNIST' / 'raw'}",
        ) from error


def _decode(sources: dict[str, Path]) -> dict[str, Tensor]:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    tensors: dict[str, Tensor] = {}
    for part, path in sources.items():
        images = part.endswith("images")
        tensor = _read(path, read_image_file if images else read_label_file)
        if images and tensor.shape[1:] != (28, 28):
            raise _malformed(path, f"images of {tuple(tensor.shape[1:])}, not (28, 28)")
        tensors[part] = tensor.unsqueeze(1).contiguous() if images else tensor.to(torch.int64)
    for split in ("train", "test"):
        counts = len(tensors[f"{split}_images"]), len(tensors[f"{split}_labels"])
        if counts[0] != counts[1]:
            raise _malformed(sources[f"{split}_labels"], f"{counts[1]} labels for {counts[0]} images")
    return tensors


def _read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    try:
        if path.suffix != ".gz":
            return reader(str(path))
        with tempfile.NamedTemporaryFile() as unpacked:
            unpacked.write(gzip.decompress(path.read_bytes()))
            unpacked.flush()
            return reader(unpacked.name)
    except (
        AssertionError,
        ValueError,
        RuntimeError,
        IndexError,
        KeyError,
        EOFError,
        TypeError,
        gzip.BadGzipFile,
    ) as error:
        reason = str(error).partition("\n")[0] or "not an IDX file of the right kind"
        raise _malformed(path, reason) from error


def _malformed(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"dataset=mnist: {path} is malformed: {reason}",
        "delete it and fetch it again with dataset.download=true",
    )
