"""Two processes of one thread beside one process of two, and beside DistributedDataParallel written by hand.

    python benchmarks/devices.py FOLDER [--rounds 5] [--steps 600]

FOLDER has MNIST/raw. Whole commands in new processes, interleaved; samples a second of training without the
start, medians, and ratios within a round. Below 600 steps the last epoch, which counts, is too short. The
hand-written script is benchmarks/ways/data_parallel.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MODELS = {
    "lenet": ("model=lenet",),
    "wide": ("model=cnn", "model.widths=[32,64]", "model.normalization=none"),
}
WAYS = ("by hand, 2", "devices=2", "devices=1 threads=2", "devices=1 threads=1")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2", "TRAINCTL_PICTURES": "0"}


def trainctl(way: str, model: str, root: Path, steps: int, folder: Path) -> float:
    """Samples a second of the last epoch, which is one of two."""
    words = way.split() if "threads" in way else [way, "threads=1"]
    given = ("dataset=mnist", f"dataset.root={root}", "dataset.val=5000", "train.epochs=null")
    own = (*MODELS[model], f"train.max_steps={steps}", "dataset.limit=20000", "display.mode=none")
    command = [sys.executable, "-m", "trainctl", *given, *own, *words, f"hydra.run.dir={folder}"]
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(folder)
    return float([row["samples_per_second"] for row in rows if "samples_per_second" in row][-1])


def by_hand(model: str, root: Path, steps: int) -> float:
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29666")
    script = (str(HERE / "ways" / "data_parallel.py"), str(root), model, str(steps))
    done = subprocess.run(
        [sys.executable, *launcher, *script], env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    print(f"| model | {' | '.join(WAYS)} | devices=2 of by hand | of one process, two threads |")
    for model in MODELS:
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            with tempfile.TemporaryDirectory() as folder:
                for way in WAYS:
                    rate = (
                        by_hand(model, given.root, given.steps)
                        if way == WAYS[0]
                        else trainctl(way, model, given.root, given.steps, Path(folder) / "run")
                    )
                    rates[way].append(rate)
        ratios = [
            statistics.median(ours / theirs for ours, theirs in zip(rates[WAYS[1]], rates[way], strict=True))
            for way in (WAYS[0], WAYS[2])
        ]
        cells = [f"{statistics.median(rates[way]):,.0f}" for way in WAYS] + [f"{each:.2f}" for each in ratios]
        print(f"| {model} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
