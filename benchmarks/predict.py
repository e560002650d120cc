"""trainctl predict beside a batch loop written by hand: the rows of a CSV, and a folder of images.

    python benchmarks/predict.py [--rounds 5] [--rows 1000000] [--images 10000]

Whole commands in new processes, interleaved: seconds, medians, ratios within a round, peak memory of the
largest process. By hand, the CSV is read by pyarrow in batches and the predictions are written by csv.writer;
images are decoded by a DataLoader with a worker a core (benchmarks/ways/predict_by_hand.py). Both run the
same model on the CPU. Memory is flat where it does not grow with the rows: a tenth of them is measured, too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SCRIPT = str(HERE / "ways" / "predict_by_hand.py")
COLOURS = ("red", "green", "blue")
QUIET = ("display.mode=none", "pictures=false", "threads=1")


def table(path: Path, rows: int) -> None:
    """Ten numbers, a colour, a class."""
    generator = np.random.default_rng(0)
    with path.open("w") as file:
        file.write(",".join([*(f"x{number}" for number in range(10)), "colour", "y"]) + "\n")
        for begin in range(0, rows, 100_000):
            count = min(100_000, rows - begin)
            values, colours = generator.normal(size=(count, 10)), generator.integers(0, 3, count)
            for row, colour in zip(values.tolist(), colours.tolist(), strict=True):
                cells = ",".join(f"{value:.5f}" for value in row)
                file.write(f"{cells},{COLOURS[colour]},c{int(row[0] + row[1] > 0)}\n")


def images(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for label in ("first", "second"):
        (folder / label).mkdir(parents=True)
    for number in range(count):
        pixels = generator.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("first", "second")[number % 2] / f"{number}.jpg")


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and MB at the peak."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env=os.environ)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - started, used.ru_maxrss / 1024


def compare(what: str, commands: dict[str, list[str]], folder: Path, rounds: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(measured(command, folder))
    own, other = (found[name] for name in ("trainctl", "by hand"))
    speed = statistics.median(theirs[0] / ours[0] for ours, theirs in zip(own, other, strict=True))
    seconds = [statistics.median(taken for taken, _ in found[name]) for name in commands]
    peaks = [max(peak for _, peak in found[name]) for name in commands]
    cells = [f"{taken:.1f} s, {peak:.0f} MB" for taken, peak in zip(seconds, peaks, strict=True)]
    print(f"| {what} | {' | '.join(cells)} | {speed:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=10_000)
    given = parser.parse_args()
    trainctl = [sys.executable, "-m", "trainctl"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table(folder / "train.csv", 20_000)
        train = ["dataset=csv", "dataset.path=train.csv", "epochs=1", *QUIET, "hydra.run.dir=run"]
        subprocess.run([*trainctl, *train], cwd=folder, check=True)
        print("| | trainctl | by hand | speed of by hand |")
        for rows in (given.rows // 10, given.rows):
            table(folder / "new.csv", rows)
            ways = {
                "trainctl": [*trainctl, "predict", "run", "--input", "new.csv", "--output", "out.csv"],
                "by hand": [sys.executable, SCRIPT, "run", "new.csv", "hand.csv"],
            }
            compare(f"{rows:,} rows", ways, folder, given.rounds)
        images(folder / "new", given.images)
        images(folder / "images", 400)
        train = ["dataset=image_folder", "dataset.size=[64,64]", "model=cnn", "model.widths=[16,32]"]
        subprocess.run([*trainctl, *train, "epochs=1", *QUIET, "hydra.run.dir=seen"], cwd=folder, check=True)
        ways = {
            "trainctl": [*trainctl, "predict", "seen", "--input", "new", "--output", "out.csv"],
            "by hand": [sys.executable, SCRIPT, "seen", "new", "hand.csv"],
        }
        compare(f"{given.images:,} images", ways, folder, given.rounds)


if __name__ == "__main__":
    main()
