"""The same images in Parquet (``dataset=hf``) and as a folder: ``python benchmarks/hf_images.py``.

Both have the same PNG files in the same order of classes; a pass decodes all of them, in two workers each.
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from trainctl.components.datasets.hf import hf
from trainctl.components.datasets.image_folder import image_folder
from trainctl.components.loaders.workers import WorkersLoader
from trainctl.registry.protocols import Cursor

_SIDE, _CLASSES, _PASSES = 96, 4, 3


def make(root: Path, count: int) -> None:
    """The same ``count`` images as ``folder/CLASS/N.png`` and as ``parquet/train.parquet``."""
    from datasets import Dataset, Features, Image, Value

    rows: dict[str, list[Any]] = {"image": [], "label": []}
    draw = random.Random(0)
    for number in range(count):
        from PIL import Image as Picture

        content, label = io.BytesIO(), f"class{number % _CLASSES}"
        Picture.frombytes("RGB", (_SIDE, _SIDE), draw.randbytes(3 * _SIDE * _SIDE)).save(content, "PNG")
        path = root / "folder" / label / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())
        rows["image"].append({"bytes": content.getvalue(), "path": None})
        rows["label"].append(label)
    (root / "parquet").mkdir()
    features = Features({"image": Image(), "label": Value("string")})
    Dataset.from_dict(rows, features).to_parquet(str(root / "parquet" / "train.parquet"))


def speed(data: Any) -> list[float]:
    """Images a second of each pass over the training split; the first, which starts workers, left out."""
    loader = WorkersLoader(data.train, data.transform, 64, torch.device("cpu"), 0, workers=2)
    speeds = []
    try:
        for epoch in range(1 + _PASSES):
            started = time.perf_counter()
            count = sum(batch.count for batch in loader.batches(Cursor(epoch, 0)))
            speeds.append(count / (time.perf_counter() - started))
    finally:
        loader.close()
    return speeds[1:]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make(root, count)
        forms = {
            "hf, Parquet": lambda: hf(path=str(root / "parquet"), size=[64, 64], test=0),
            "image_folder": lambda: image_folder(
                path=str(root / "folder"), size=(64, 64), cache=False, max_resident_gb=0
            ),
        }
        for form, build in forms.items():
            started = time.perf_counter()
            data = build()
            built = time.perf_counter() - started
            speeds = ", ".join(f"{each:,.0f}" for each in speed(data))
            print(f"{form}: {len(data.train)} images, read in {built:.1f} s, images/s {speeds}")


if __name__ == "__main__":
    main()
