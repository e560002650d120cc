"""Published image datasets in torchvision's layout: IDX files (MNIST and others in its format) and CIFAR.

They are decoded once; later runs read tensors, and start without torchvision.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainctl.data.files import identity
from trainctl.data.types import Data, Split, Standardize
from trainctl.errors import ConfigError, MissingDataError

_IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
_REMEDY = "delete it and download it again with dataset.download=true"


class StandardizeChannels(nn.Module):
    """``(inputs / 255 - mean) / std`` for each channel, in float32.

    Shape: (N, 3, height, width) uint8 → the same, float32.
    """

    row_wise = True
    factor: Tensor
    offset: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        shape = (1, len(mean), 1, 1)
        means, stds = torch.tensor(mean).reshape(shape), torch.tensor(std).reshape(shape)
        self.register_buffer("factor", 1 / (255 * stds))
        self.register_buffer("offset", -means / stds)

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.to(torch.float32) * self.factor).add_(self.offset)


def load_idx(
    name: str,
    folder: str,
    root: str,
    download: bool,
    classes: tuple[str, ...],
    mean: float,
    std: float,
) -> Data:
    """The dataset in ROOT/``folder``/raw, plain or gzipped; ``folder`` is also torchvision's class.

    Raises MissingDataError when files are absent, ConfigError naming a malformed one.
    """
    place = Path(root).expanduser()
    raw = place / folder / "raw"
    if download and any(_find(raw, file) is None for file in _IDX_FILES.values()):
        _torchvision(name, folder, place, f"put the four files into {raw}", download=True)
    found = {part: _find(raw, file) for part, file in _IDX_FILES.items()}
    sources = {part: path for part, path in found.items() if path is not None}
    missing = [file for part, file in _IDX_FILES.items() if part not in sources]
    if missing:
        raise MissingDataError(
            f"dataset={name}: {', '.join(missing)} not found in {raw.absolute()}",
            f"name the folder of {folder}/raw with dataset.root=DIR, or fetch it: dataset.download=true",
            stand_in={"task": "classification", "shape": [1, 28, 28], "outputs": 10},
        )
    tensors, note = _cached(raw.parent, list(sources.values()), lambda: _decode_idx(name, sources))
    return _data(name, tensors, note, classes, Standardize(scale=255.0, mean=mean, std=std))


def load_cifar(
    name: str,
    torchvision_class: str,
    folder: str,
    root: str,
    download: bool,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Data:
    """The dataset in ROOT/``folder``; torchvision compares each file's MD5 with the published one.

    Raises MissingDataError when files are absent, ConfigError when they are not the published ones.
    """
    place = Path(root).expanduser()
    own = place / folder
    files = sorted(path for path in own.glob("*") if path.is_file() and path.suffix != ".safetensors")
    if not files and not download:
        raise MissingDataError(
            f"dataset={name}: not found in {own.absolute()}",
            f"name the folder that holds {folder} with dataset.root=DIR, or fetch it: dataset.download=true",
            stand_in={
                "task": "classification",
                "shape": [3, 32, 32],
                "outputs": int(name.removeprefix("cifar")),
            },
        )

    def decode() -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for split in ("train", "test"):
            dataset = _torchvision(
                name, torchvision_class, place, _REMEDY, train=split == "train", download=download
            )
            tensors[f"{split}_images"] = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
            tensors[f"{split}_labels"] = torch.tensor(dataset.targets, dtype=torch.int64)
            names = "\n".join(dataset.classes).encode()
        # safetensors holds tensors only: the classes' names travel as their bytes.
        tensors["classes"] = torch.tensor(list(names), dtype=torch.uint8)
        return tensors

    tensors, note = _cached(own, files, decode)
    classes = tuple(bytes(tensors["classes"].tolist()).decode().split("\n"))
    return _data(name, tensors, note, classes, StandardizeChannels(mean, std))


def _data(
    name: str, tensors: dict[str, Tensor], note: str, classes: tuple[str, ...], transform: nn.Module
) -> Data:
    return Data(
        name=name,
        task="classification",
        train=Split(tensors["train_images"], tensors["train_labels"]),
        test=Split(tensors["test_images"], tensors["test_labels"]),
        input_shape=tuple(tensors["train_images"].shape[1:]),
        output_size=len(classes),
        transform=transform,
        classes=classes,
        note=note,
    )


def _torchvision(name: str, torchvision_class: str, root: Path, remedy: str, **options: bool) -> Any:
    from torchvision import datasets

    try:
        return getattr(datasets, torchvision_class)(str(root), **options)
    except (OSError, RuntimeError, KeyError, ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"dataset={name}: {torchvision_class} in {root} cannot be used: {reason}", remedy
        ) from error


def _cached(
    folder: Path, sources: Sequence[Path], decode: Callable[[], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], str]:
    """The tensors of the cache if it was made from exactly these source files, else those of ``decode``.

    Source files are compared by name, size, times and inode. Returns the tensors and a note on their
    source, which also says when the cache cannot be written: then the next run decodes again.
    """
    cache = folder / "trainctl-1.safetensors"
    stamp = json.dumps([[path.name, *identity(path)] for path in sources])
    # A torn or foreign file is replaced.
    with contextlib.suppress(SafetensorError, OSError), safe_open(cache, framework="pt") as stored:
        if (stored.metadata() or {}).get("sources") == stamp:
            return load_file(cache), "cached"
    tensors = decode()
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata={"sources": stamp})
        # safetensors makes private files; the cache gets the source files' permissions.
        temporary.chmod(sources[0].stat().st_mode & 0o666 if sources else 0o644)
        temporary.replace(cache)
    except (SafetensorError, OSError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = str(error).partition("\n")[0]
        return tensors, f"decoded; not cached: {reason}"
    return tensors, f"decoded and cached in {cache}"


def _find(raw: Path, name: str) -> Path | None:
    return next((path for path in (raw / name, raw / f"{name}.gz") if path.is_file()), None)


def _decode_idx(name: str, sources: dict[str, Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for part, path in sources.items():
        images = part.endswith("images")
        tensor = _read_idx(name, path, 3 if images else 1)
        if images and tensor.shape[1:] != (28, 28):
            raise _malformed(name, path, f"images of {tuple(tensor.shape[1:])}, not (28, 28)")
        tensors[part] = tensor.unsqueeze(1) if images else tensor.to(torch.int64)
    for split in ("train", "test"):
        counts = len(tensors[f"{split}_images"]), len(tensors[f"{split}_labels"])
        if counts[0] != counts[1]:
            raise _malformed(name, sources[f"{split}_labels"], f"{counts[1]} labels for {counts[0]} images")
    return tensors


def _read_idx(name: str, path: Path, dimensions: int) -> Tensor:
    """An array of bytes: a magic number, the sizes as big-endian 32-bit numbers, the values."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _malformed(name, path, str(error)) from error
    head = 4 * (1 + dimensions)
    if len(content) < head or content[:4] != bytes([0, 0, 8, dimensions]):
        raise _malformed(name, path, "not an IDX file of the right kind")
    shape = np.frombuffer(content[4:head], ">u4").tolist()
    if len(content) - head != np.prod(shape, dtype=object):
        raise _malformed(name, path, f"{len(content) - head} bytes for the shape {tuple(shape)}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=head).reshape(shape).copy())


def _malformed(name: str, path: Path, reason: str) -> ConfigError:
    return ConfigError(f"dataset={name}: {path} is malformed: {reason}", _REMEDY)
