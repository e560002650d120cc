"""Peak memory of a process that holds a part of the model, beside one that holds all of it.

    python benchmarks/sharded_memory.py [--devices 2] [--steps 3]

Two models of 134 million parameters on the digits, with adam: a deep one, and one of two large layers, which
are gathered whole. Whole commands in new processes, checkpoint and test included; the largest resident memory
of each process (VmHWM).
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
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    common = ["threads=1", f"train.max_steps={given.steps}", "train.epochs=null", "dataset.limit=256"]
    ways = {"one device": [], f"fsdp on {given.devices}": ["strategy=fsdp", f"devices={given.devices}"]}
    print("| model | way | GB of each process | largest, of one device's |")
    for hidden in ([4096] * 9, [8192] * 3):
        whole = 0.0
        for way, words in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                own = [f"model.hidden={hidden}".replace(" ", ""), "display.mode=none"]
                found = list(peaks([*common, *own, *words], Path(folder) / "run").values())
            whole = whole or max(found)
            cells = f"{', '.join(f'{peak:.2f}' for peak in found)} | {max(found) / whole:.2f}"
            print(f"| {len(hidden)} layers of {hidden[0]} | {way} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
