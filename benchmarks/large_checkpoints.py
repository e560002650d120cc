"""Peak memory and time of the checkpoints of a large model, beside a hand-written script with torch.save.

    python benchmarks/large_checkpoints.py [--hidden 8192] [--rounds 3] [--folder DIR]

An MLP 64-H-H-H-10 (135 M parameters at 8,192) takes three steps with Adam on the digits and is saved after
the second. Each way in a process of its own: the script; trainctl with ``checkpoint.overlap=false`` and
``true``; then ``eval``, ``resume`` and ``export`` of that run. Last, in one process and in turn: the seconds
of ``torch.save`` with fsync, and of a checkpoint written, synced, read back and compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData, ready_to_save, save_checkpoint, verify_checkpoint

TRAINCTL = str(Path(sys.executable).with_name("trainctl"))
DIGITS = Path(__file__).parents[1] / "src/trainctl/components/datasets/digits.safetensors"


def script(hidden: int, folder: Path) -> tuple[nn.Module, torch.optim.Optimizer]:
    """What a person writes: three steps, saved after the second."""
    data = load_file(DIGITS)
    images, labels = (data["images"].float() / 16 - 0.305) / 0.376, data["labels"].long()
    torch.manual_seed(0)
    sizes = [64, hidden, hidden, hidden, 10]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for step in range(3):
        index = torch.randperm(len(images))[:64]
        loss = nn.functional.cross_entropy(model(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1:
            torch_save(model, optimizer, folder)
    return model, optimizer


def torch_save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    with (folder / "model.pt").open("wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())


def peak(command: list[str], folder: Path) -> float:
    """Gigabytes that the process held at most."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{command} failed")
    return usage.ru_maxrss / 1e6


def seconds(hidden: int, folder: Path, rounds: int) -> tuple[float, float]:
    """Medians of torch.save with fsync, and of a checkpoint that is written, read back and compared."""
    model, optimizer = script(hidden, folder)
    theirs, ours = [], []
    for number in range(rounds):
        started = time.perf_counter()
        torch_save(model, optimizer, folder)
        theirs.append(time.perf_counter() - started)
        started = time.perf_counter()
        plain: dict[str, Any] = {"step": number}
        content: CheckpointData = ready_to_save(
            snapshot.take(model.state_dict(), plain, {"optimizer": optimizer}, copied=False)
        )
        verify_checkpoint(save_checkpoint(folder / "checkpoints", content))
        ours.append(time.perf_counter() - started)
    return statistics.median(theirs), statistics.median(ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    parser.add_argument("--script", type=Path, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.script:
        script(asked.hidden, asked.script)
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        own = [sys.executable, __file__, "--hidden", str(asked.hidden), "--script", str(folder)]
        bare = peak(own, folder)
        print(f"{'script with torch.save':<30} {bare:6.2f} GB", flush=True)
        words = [f"model.hidden=[{asked.hidden},{asked.hidden},{asked.hidden}]", "lr=1e-4"]
        words += ["train.max_steps=3", "checkpoint.every_steps=2"]
        ways = {
            f"checkpoint.overlap={overlap}": [
                *words,
                f"checkpoint.overlap={overlap}",
                f"hydra.run.dir={overlap}",
            ]
            for overlap in ("false", "true")
        }
        ways |= {
            "eval": ["eval", "true"],
            "resume": ["resume", "true", "train.max_steps=4"],
            "export": ["export", "true", "--format", "safetensors"],
        }
        for label, command in ways.items():
            found = peak([TRAINCTL, *command], folder)
            print(f"{label:<30} {found:6.2f} GB  {found / bare:.2f} of the script's", flush=True)
        theirs, ours = seconds(asked.hidden, folder, asked.rounds)
        print(
            f"saved, read back and compared in {ours:.1f} s, torch.save {theirs:.1f} s: {ours / theirs:.2f}"
        )


if __name__ == "__main__":
    main()
