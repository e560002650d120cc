"""The same training in several ways, side by side: steady steps a second, start, memory.

    python benchmarks/speed.py --mnist DIR [--rounds 7] [--work mnist_mlp …] [--threads 1 all] [--json FILE]

DIR holds MNIST's four .gz files as ``<root>/MNIST/raw``. Each way is a program of its own in
``benchmarks/ways`` and runs in a new process; the ways take turns, so that what disturbs the machine disturbs
all of them. trainctl runs as a person runs it: on a terminal with its live display, every step's loss
written, the default guard on. Medians; ratios are to trainctl in the same round. "first step" is from the
start of the process.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import pty
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
TRAINCTL = str(Path(sys.executable).with_name("trainctl"))
WAYS = {
    "tightest": ["tightest.py"],
    "TensorDataset": ["tensor_dataset.py"],
    "Ignite": ["ignite_loop.py"],
    "Lightning": ["lightning_loop.py"],
    "tutorial": ["tutorial.py"],
    "Lightning, items": ["lightning_loop.py", "--items"],
}
ON_MNIST_ONLY = ("tutorial", "Lightning, items")
SLOW = ("tutorial", "Lightning", "Lightning, items", "Ignite")
WORDS = {
    "mnist_mlp": ["dataset=mnist", "model=mlp", "model.hidden=[128,64]", "model.dropout=0.1"],
    "mnist_lenet": ["dataset=mnist", "model=lenet"],
    "digits_mlp": ["dataset=npz", "dataset.test=0", "model=mlp", "model.hidden=[128,64]"],
    "table_mlp": ["dataset=npz", "dataset.test=0", "model=mlp", "model.hidden=[64,64]", "loss=mse"],
    "line": ["dataset=npz", "dataset.test=0", "model=linear", "loss=mse"],
}
SAMPLES = {"mnist_mlp": 60000, "mnist_lenet": 60000, "digits_mlp": 1797, "table_mlp": 20000, "line": 200000}


def make_data(folder: Path, mnist: Path) -> None:
    """The works' arrays, and MNIST where every way finds it."""
    chance = np.random.default_rng(0)
    from safetensors.numpy import load_file

    digits = load_file(HERE.parent / "src/trainctl/datasets/digits.safetensors")
    np.savez(
        folder / "digits.npz", x=digits["images"].astype(np.float32), y=digits["labels"].astype(np.int64)
    )
    x = chance.normal(size=(20000, 20)).astype(np.float32)
    y = (np.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]).astype(np.float32)
    np.savez(folder / "table.npz", x=x, y=y)
    x = chance.normal(size=(200000, 1)).astype(np.float32)
    np.savez(folder / "line.npz", x=x, y=2 * x + 1)
    for file in mnist.glob("*.gz"):
        (folder / file.name).symlink_to(file.resolve())
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))  # torchvision asks for these


def ours(work: str, data: Path, epochs: int) -> list[str]:
    root = [f"dataset.root={data.parents[1]}"] if work.startswith("mnist") else []
    path = [] if root else [f"dataset.path={data / work.partition('_')[0]}.npz"]
    fixed = ["dataset.val=0", "optim=adam", "lr=1e-3", "batch_size=64", "scheduler=none"]
    fixed += [f"epochs={epochs}", "display.mode=rich"]
    return [TRAINCTL, *WORDS[work], *root, *path, *fixed]


def environment(threads: int | None) -> dict[str, str]:
    return {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {}), "COLUMNS": "160"}


def run_way(way: str, work: str, data: Path, threads: int | None, steps: int) -> dict[str, Any]:
    """One process of one way. Raises RuntimeError when it fails."""
    script, *options = WAYS[way]
    command = [sys.executable, str(HERE / "ways" / script), *options, work]
    command += ["--steps", str(steps), "--data", str(data)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with subprocess.Popen(
            command,
            cwd=folder,
            env=environment(threads),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            first, last = None, ""
            for line in process.stdout:
                if first is None and "step 1" in line:
                    first = time.perf_counter() - started
                last = line if line.startswith("{") else last
            error = process.stderr.read() if process.stderr else ""
    if process.returncode or first is None:
        raise RuntimeError(f"{way} on {work} ended with exit {process.returncode}: {error[-500:]}")
    return {**json.loads(last), "first_step": first, "wall": time.perf_counter() - started}


def run_ours(
    work: str, data: Path, threads: int | None, epochs: int, more: tuple[str, ...] = ()
) -> dict[str, Any]:
    """trainctl on a terminal. Its steady speed is that of the last epoch, as it shows it."""
    command = [*ours(work, data, epochs), *more, *([f"threads={threads}"] if threads else [])]
    with tempfile.TemporaryDirectory() as folder:
        reader, terminal = pty.openpty()
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=environment(threads), stdout=terminal, stderr=terminal, close_fds=True
        )
        os.close(terminal)
        seen, first = b"", None
        while True:
            ready, _, _ = select.select([reader], [], [], 0.5)
            if not ready:
                if process.poll() is not None:
                    break
                continue
            try:
                chunk = os.read(reader, 65536)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
            if first is None and re.search(rb"[Ll]oss:? +\d", seen):
                first = time.perf_counter() - started
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        os.close(reader)
        wall = time.perf_counter() - started
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode("utf-8", "replace"))
    speeds = re.findall(r"([\d,]+) samples/s", text)
    rows = [line for line in text.splitlines() if re.match(rf"\s*{epochs}/{epochs}\b", line)]
    if process.returncode or not (speeds or rows):
        raise RuntimeError(f"trainctl on {work} ended with exit {process.returncode}: {text[-800:]}")
    samples_per_second = float(speeds[-1].replace(",", ""))
    batches = -(-SAMPLES[work] // 64)
    return {
        "steps_per_second": samples_per_second / SAMPLES[work] * batches,
        "first_step": first,
        "wall": wall,
        "memory": usage.ru_maxrss * 1024,
        "versions": {},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", nargs="+", default=list(WORDS), choices=list(WORDS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--threads", nargs="+", default=["1", "all"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "works": {},
    }
    print(f"{results['machine']}, Python {results['python']}, medians of {given.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "MNIST" / "raw"
        data.mkdir(parents=True)
        make_data(data, given.mnist)
        for work in given.work:
            for threads in given.threads:
                found = measure(work, data, None if threads == "all" else int(threads), given)
                results["works"][f"{work}, {threads} threads"] = found
                report(work, threads, found)
                if given.json:
                    given.json.write_text(json.dumps(results, indent=1))


def measure(
    work: str, data: Path, threads: int | None, given: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Rounds of all the ways in turn; the first, uncounted, fills caches."""
    ways = [way for way in given.ways if work.startswith("mnist") or way not in ON_MNIST_ONLY]
    epochs = max(2, 2000 * 64 // SAMPLES[work])
    found: dict[str, list[dict[str, Any]]] = {}
    for turn in range(given.rounds + 1):
        turns = [
            ("trainctl", run_ours(work, data, threads, epochs)),
            ("trainctl, guard=full", run_ours(work, data, threads, epochs, ("guard=full",))),
            *(
                (way, run_way(way, work, data, threads, 250 if way in SLOW else 1000))
                for way in ways
                if turn or way not in SLOW
            ),
        ]
        for way, values in turns if turn else ():
            found.setdefault(way, []).append(values)
    return found


def report(work: str, threads: str, found: dict[str, list[dict[str, Any]]]) -> None:
    print(f"\n{work}, {threads} thread{'' if threads == '1' else 's'}")
    print(f"{'way':<22}{'steps/s':>9}{'trainctl is':>14}{'(spread)':>18}{'first step':>12}{'memory':>10}")
    base = [each["steps_per_second"] for each in found["trainctl"]]
    for way, rounds in found.items():
        speeds = [each["steps_per_second"] for each in rounds]
        ratios = sorted(a / b for a, b in zip(base, speeds, strict=True))
        first = statistics.median(each["first_step"] for each in rounds if each["first_step"])
        memory = statistics.median(each["memory"] for each in rounds)
        print(
            f"{way:<22}{statistics.median(speeds):>9.0f}{statistics.median(ratios):>12.2f} x"
            f"{f'({ratios[0]:.2f} to {ratios[-1]:.2f})':>18}{first:>10.2f} s{memory / 1e6:>7.0f} MB"
        )
    versions = {name: v for rounds in found.values() for name, v in rounds[0]["versions"].items()}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))


if __name__ == "__main__":
    main()
