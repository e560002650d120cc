"""Memory of each process of a run on two devices, with data held whole and data loaded by workers.

    python benchmarks/data_memory.py FOLDER [MEGABYTES]

Writes a file of so many megabytes (400) into FOLDER and trains a small model on it three times: on one device
and on two with all of it in memory, and on two with a worker each that reads samples from the file. The most
that each process has held is shown as PSS, in which a page that several share counts once, shared out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import numpy

PLUGIN = """
import numpy, torch
from torch.utils.data import Dataset
from trainctl.data import Datasets
from trainctl.registry import DATASETS

class Stored(Dataset):
    def __init__(self, begin, end):
        self.begin, self.end, self.rows = begin, end, None
        self.targets = torch.arange(end - begin) % 2
    def __len__(self):
        return self.end - self.begin
    def __getitem__(self, index):
        if self.rows is None:
            self.rows = numpy.load("rows.npy", mmap_mode="r")
        return torch.from_numpy(numpy.array(self.rows[self.begin + index])), int(self.targets[index])

@DATASETS.register("stored")
def stored(count: int):
    return Datasets(Stored(0, count - 1000), val=Stored(count - 1000, count))
"""
WORDS = "plugins=[./stored.py]", "dataset.name=stored", "model.hidden=[8]", "threads=1", "display.mode=none"
WAYS = {
    "one device, all in memory": ("devices=1", "loader=resident"),
    "two devices, all in memory": ("devices=2", "loader=resident"),
    "two devices, a worker each": ("devices=2", "loader=workers", "loader.workers=1"),
}


def held(mark: str) -> dict[str, int]:
    """Bytes of each living process of the run, by its part in it."""
    found: dict[str, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, StopIteration):
            environment = (folder / "environ").read_bytes()
            if f"MARK={mark}".encode() not in environment:
                continue
            rank = b"RANK=1" in environment.split(b"\0")
            command = (folder / "cmdline").read_bytes()
            part = "" if b"trainctl\0" in command or b"trainctl.cli.rank" in command else "'s workers"
            lines = (folder / "smaps_rollup").read_text().splitlines()
            size = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            name = f"rank {int(rank)}{part}"
            found[name] = found.get(name, 0) + size * 1024
    return found


def main() -> None:
    folder, megabytes = Path(sys.argv[1]).absolute(), int([*sys.argv, "400"][2])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stored.py").write_text(PLUGIN)
    count = megabytes * 1_000_000 // 4096
    rows = numpy.random.default_rng(0).integers(0, 256, (count, 4096), dtype=numpy.uint8)
    numpy.save(folder / "rows.npy", rows)
    del rows
    for number, (name, words) in enumerate(WAYS.items()):
        mark, most = uuid.uuid4().hex, dict[str, int]()
        more = (f"dataset.count={count}", "epochs=1", "batch_size=256", f"hydra.run.dir=run-{number}")
        process = subprocess.Popen(
            [sys.executable, "-m", "trainctl", *WORDS, *words, *more],
            cwd=folder,
            env={**os.environ, "MARK": mark},
            start_new_session=True,
        )
        while process.poll() is None:
            for part, size in held(mark).items():
                most[part] = max(most.get(part, 0), size)
            time.sleep(0.1)
        assert process.returncode == 0
        print(f"{name}: " + ", ".join(f"{part} {size / 1e6:.0f} MB" for part, size in sorted(most.items())))


if __name__ == "__main__":
    main()
