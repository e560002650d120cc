"""A folder of images: the first run, which decodes it, against the second, and both against other ways.

    python benchmarks/images.py [--rounds 7] [--images 2000] [--folder DIR]

Photograph-like JPEG files of 256×256 in two classes, trained on for two epochs at 64×64 with a linear model,
so that the data and not the arithmetic takes the time. Each run is a fresh process with one thread. The ways
take turns:

    first      nothing is cached: all images are decoded, and their pixels kept beside them
    second     the pixels are read from there
    decoding   no cache: workers decode each image whenever it is used
    arrays     the same pixels in an .npz file, which is data in memory from the start

Seconds are from the start of the process to its end; samples/s are those of the second epoch's training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
from PIL import Image

from trainctl.data.images.decoding import Decoder

SIZE = 64
IMAGE = ("dataset=image_folder", f"dataset.size=[{SIZE},{SIZE}]")


def draw(root: Path, images: int) -> None:
    """Smooth noise, which compresses as photographs do; one class is darker."""
    random = numpy.random.default_rng(0)
    for number in range(images):
        folder = root / ("light" if number % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 128 + 127 * (number % 2), (32, 32, 3), dtype=numpy.uint8)
        picture = Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=90)


def write_arrays(root: Path, path: Path) -> None:
    decode = Decoder((SIZE, SIZE), 3, "crop")
    files = sorted(root.glob("*/*.jpg"))
    inputs = torch.stack([decode(str(file)) for file in files]).numpy()
    numpy.savez(path, x=inputs, y=numpy.array([file.parent.name == "light" for file in files], numpy.int64))


def timed(folder: Path, *words: str) -> tuple[float, float]:
    """Seconds of a whole run, and samples/s of its second epoch."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "trainctl",
        *words,
        "model=linear",
        "epochs=2",
        "device=cpu",
        "threads=1",
    ]
    command += ["dataset.val=0.1", "pictures=false", "display.mode=none", f"hydra.run.dir={run}"]
    started = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - started
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return seconds, [line for line in lines if "samples_per_second" in line][-1]["samples_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=None, help="where the images go: the disk to measure")
    asked = parser.parse_args()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, cpu, one thread, {versions}")
    print(f"{asked.images} images; medians of {asked.rounds} rounds; lowest and highest ratio in parentheses")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        root, arrays = folder / "images", folder / "arrays.npz"
        draw(root, asked.images)
        write_arrays(root, arrays)
        cached = (*IMAGE, f"dataset.path={root}")
        ways = {
            "first": cached,
            "second": cached,
            "decoding": (*cached, "dataset.cache=false"),
            "arrays": ("dataset=npz", f"dataset.path={arrays}", "dataset.test=0"),
        }
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(asked.rounds):
            shutil.rmtree(root / ".trainctl", ignore_errors=True)
            for way, words in ways.items():
                found[way].append(timed(folder, *words))
    for way, results in found.items():
        seconds, speeds = (statistics.median(each) for each in zip(*results, strict=True))
        ratios = sorted(one[0] / other[0] for one, other in zip(results, found["first"], strict=True))
        faster = sorted(one[1] / other[1] for one, other in zip(results, found["arrays"], strict=True))
        print(
            f"{way:<9} {seconds:6.2f} s   of the first run's {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})   {speeds:9,.0f} samples/s   "
            f"of the arrays' {statistics.median(faster):.2f} ({faster[0]:.2f} to {faster[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
