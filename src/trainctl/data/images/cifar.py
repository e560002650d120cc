"""Read CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.data.cache import cached
from trainctl.data.types import Data, Split
from trainctl.errors import ConfigError, MissingDataError


class StandardizeChannels(nn.Module):
    """``(inputs / 255 - mean) / std`` for each channel, in float32.

    Shape: (N, 3, height, width) uint8 → the same, float32.
    """

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


def load(
    name: str,
    torchvision_class: str,
    folder: str,
    root: str,
    download: bool,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Data:
    """The dataset in ROOT/``folder``, torchvision's layout.

    torchvision compares each file's MD5 with the published one before decoding it; later runs read tensors.
    Raises MissingDataError when files are absent, ConfigError when they are not the published ones.
    """
    place = Path(root).expanduser()
    files = sorted(
        path for path in (place / folder).glob("*") if path.is_file() and path.suffix != ".safetensors"
    )
    if not files and not download:
        raise MissingDataError(
            f"dataset={name}: not found in {(place / folder).absolute()}",
            f"name the folder that holds {folder} with dataset.root=DIR, or fetch it: dataset.download=true",
            stand_in={
                "task": "classification",
                "shape": [3, 32, 32],
                "outputs": int(name.removeprefix("cifar")),
            },
        )
    tensors, note = cached(
        place / folder / "trainctl-1.safetensors",
        files,
        lambda: _decode(name, torchvision_class, place, folder, download),
    )
    names = bytes(tensors["classes"].tolist()).decode().split("\n")
    return Data(
        name=name,
        task="classification",
        train=Split(tensors["train_images"], tensors["train_labels"]),
        test=Split(tensors["test_images"], tensors["test_labels"]),
        input_shape=(3, 32, 32),
        output_size=len(names),
        transform=StandardizeChannels(mean, std),
        classes=tuple(names),
        note=note,
    )


def _decode(name: str, torchvision_class: str, root: Path, folder: str, download: bool) -> dict[str, Tensor]:
    from torchvision import datasets

    tensors: dict[str, Tensor] = {}
    for split in ("train", "test"):
        try:
            dataset: Any = getattr(datasets, torchvision_class)(
                str(root), train=split == "train", download=download
            )
        except (OSError, RuntimeError, KeyError, ValueError, EOFError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"dataset={name}: {root / folder} cannot be used: {reason}",
                "delete it and download it again with dataset.download=true",
            ) from error
        tensors[f"{split}_images"] = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
        tensors[f"{split}_labels"] = torch.tensor(dataset.targets, dtype=torch.int64)
        names = "\n".join(dataset.classes)
    # safetensors holds tensors only: the classes' names travel as their bytes.
    tensors["classes"] = torch.tensor(list(names.encode()), dtype=torch.uint8)
    return tensors
