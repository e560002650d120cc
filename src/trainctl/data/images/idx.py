"""Read the IDX files of MNIST and of datasets in its format."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from trainctl.data.cache import cached
from trainctl.data.types import Data, Split, Standardize
from trainctl.errors import ConfigError, MissingDataError

_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
_STAND_IN = {"task": "classification", "shape": [1, 28, 28], "outputs": 10}
_BAD_FILE = (
    AssertionError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
    gzip.BadGzipFile,
    zlib.error,
)


def load(
    name: str,
    folder: str,
    torchvision_class: str,
    root: str,
    download: bool,
    classes: tuple[str, ...],
    mean: float,
    std: float,
) -> Data:
    """The dataset in ROOT/``folder``/raw, torchvision's layout, plain or gzipped.

    torchvision decodes the files once; later runs read tensors from ROOT/``folder``. Raises
    MissingDataError when files are absent, ConfigError naming a malformed one.
    """
    place = Path(root).expanduser()
    raw = place / folder / "raw"
    if download and any(_find(raw, file) is None for file in _FILES.values()):
        _download(name, torchvision_class, place, raw)
    found = {part: _find(raw, file) for part, file in _FILES.items()}
    missing = [_FILES[part] for part, path in found.items() if path is None]
    if missing:
        raise MissingDataError(
            f"dataset={name}: {', '.join(missing)} not found in {raw.absolute()}",
            f"name the folder of {folder}/raw with dataset.root=DIR, or fetch it: dataset.download=true",
            stand_in=_STAND_IN,
        )
    sources = {part: path for part, path in found.items() if path is not None}
    tensors, note = cached(
        raw.parent / "trainctl-1.safetensors", list(sources.values()), lambda: _decode(name, sources)
    )
    return Data(
        name=name,
        task="classification",
        train=Split(tensors["train_images"], tensors["train_labels"]),
        test=Split(tensors["test_images"], tensors["test_labels"]),
        input_shape=(1, 28, 28),
        output_size=10,
        transform=Standardize(scale=255.0, mean=mean, std=std),
        classes=classes,
        note=note,
    )


def _find(raw: Path, name: str) -> Path | None:
    candidates = (raw / name, raw / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _download(name: str, torchvision_class: str, root: Path, raw: Path) -> None:
    from torchvision import datasets

    try:
        getattr(datasets, torchvision_class)(str(root), download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"dataset={name}: the download failed: {reason}", f"put the four files into {raw}"
        ) from error


def _decode(name: str, sources: dict[str, Path]) -> dict[str, Tensor]:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    tensors: dict[str, Tensor] = {}
    for part, path in sources.items():
        images = part.endswith("images")
        tensor = _read(name, path, read_image_file if images else read_label_file)
        if images and tensor.shape[1:] != (28, 28):
            raise _malformed(name, path, f"images of {tuple(tensor.shape[1:])}, not (28, 28)")
        tensors[part] = tensor.unsqueeze(1).contiguous() if images else tensor.to(torch.int64)
    for split in ("train", "test"):
        counts = len(tensors[f"{split}_images"]), len(tensors[f"{split}_labels"])
        if counts[0] != counts[1]:
            raise _malformed(name, sources[f"{split}_labels"], f"{counts[1]} labels for {counts[0]} images")
    return tensors


def _read(name: str, path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    try:
        if path.suffix != ".gz":
            return reader(str(path))
        with tempfile.NamedTemporaryFile() as unpacked:
            unpacked.write(gzip.decompress(path.read_bytes()))
            unpacked.flush()
            return reader(unpacked.name)
    except _BAD_FILE as error:
        reason = str(error).partition("\n")[0] or "not an IDX file of the right kind"
        raise _malformed(name, path, reason) from error


def _malformed(name: str, path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"dataset={name}: {path} is malformed: {reason}",
        "delete it and download it again with dataset.download=true",
    )
