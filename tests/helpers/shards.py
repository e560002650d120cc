"""Small sets of shards: the digits, or what a test puts together."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from trainctl.components.datasets.digits import digits

SHARDS, EACH = 6, 20
Members = Iterable[tuple[str, bytes]]


def tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def png(image: torch.Tensor) -> bytes:
    stored = io.BytesIO()
    Image.fromarray((image[0].numpy() * 15).astype("uint8")).save(stored, "PNG")
    return stored.getvalue()


def digit_images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 8, 8) as they are read, and their classes."""
    source: Any = digits().train
    return (source.inputs[:count] * 15).to(torch.uint8), source.targets[:count]


def members(numbers: Sequence[int], targets: Mapping[str, Any] | None = None) -> Members:
    """Those of digits: an image, and what ``targets`` makes of the class, by extension."""
    source: Any = digits().train
    for number in numbers:
        digit = int(source.targets[number])
        yield f"digits/{number:05d}.png", png(source.inputs[number])
        for extension, made in (targets or {"cls": str}).items():
            yield f"digits/{number:05d}.{extension}", made(digit).encode()


def digit_shards(folder: Path, shards: int = SHARDS, each: int = EACH, name: str = "part") -> Path:
    """A folder of tar files of digits, in their order."""
    for number in range(shards):
        tar(folder / f"{name}-{number:03d}.tar", members(range(number * each, (number + 1) * each)))
    return folder
