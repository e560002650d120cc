"""Peak memory of a process that holds a part of the model, beside one that holds all of it.

    python benchmarks/sharded_memory.py [--devices 2] [--hidden 8192] [--steps 3]

A model of three layers of --hidden (134 million parameters by default) on the digits, with adam: whole commands
in new processes, checkpoint and test included, and the largest resident memory of each (VmHWM).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def peaks(words: list[str], folder: Path) -> dict[int, float]:
    """The largest resident memory in GB of the process that trains ``words`` and of its children, by pid."""
    command = [sys.executable, "-m", "trainctl", *words, f"hydra.run.dir={folder}"]
    environment = {**os.environ, "TRAINCTL_PICTURES": "0"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    found: dict[int, float] = {}
    while process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            pids = [process.pid, *map(int, children.read_text().split())]
        except OSError:
            continue
        for pid in pids:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            if "VmHWM:" in status:
                found[pid] = int(status.partition("VmHWM:")[2].split()[0]) / 1e6
        time.sleep(0.05)
    if process.returncode:
        sys.exit(process.returncode)
    return {pid: peak for pid, peak in found.items() if peak > 0.2}  # smaller ones ask git


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    layers = ",".join([str(given.hidden)] * 3)
    common = [f"model.hidden=[{layers}]", "threads=1", f"train.max_steps={given.steps}", "train.epochs=null"]
    common += ["dataset.limit=256", "display.mode=none"]
    ways = {"one device": [], f"fsdp on {given.devices}": ["strategy=fsdp", f"devices={given.devices}"]}
    whole = 0.0
    print("| way | GB of each process | largest, of one device's |")
    for way, words in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            found = list(peaks([*common, *words], Path(folder) / "run").values())
        whole = whole or max(found)
        print(
            f"| {way} | {', '.join(f'{peak:.2f}' for peak in found)} | {max(found) / whole:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
