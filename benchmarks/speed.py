"""The same training in several ways, side by side: steady steps a second, start, wall time, memory.

    python benchmarks/speed.py --mnist DIR [--rounds 7] [--work mnist_mlp …] [--threads 1 all] [--json FILE]

DIR holds MNIST's four .gz files as ``<root>/MNIST/raw``. Each way is a program of its own in
``benchmarks/ways`` and runs in a new process; the ways take turns, so that what disturbs the machine disturbs
all of them. trainctl runs as a person runs it: on a terminal with its live display, every step's loss
written, the default guard on. Medians; ratios are to trainctl in the same round, and at the end with each way
at its better number of threads.

    steps/s      trainctl: median of its epochs' rows but the first; others: from step 50 on
    first step   from the start of the process
    epoch, smoke whole processes of one epoch and of ten steps (MNIST MLP); trainctl's hold its checkpoints,
                 the test on 10,000 digits and its pictures, the others train only
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
from images import draw
from startup import compile_package

HERE = Path(__file__).parent
TRAINCTL = str(Path(sys.executable).with_name("trainctl"))
WAYS = {
    "tightest": ["tightest.py"],
    "TensorDataset": ["tensor_dataset.py"],
    "Ignite": ["ignite_loop.py"],
    "Lightning": ["lightning_loop.py"],
    "Lightning, bare": ["lightning_loop.py", "--bare"],
    "tutorial": ["tutorial.py"],
    "Lightning, items": ["lightning_loop.py", "--items"],
}
ITEMS = ("tutorial", "Lightning, items")
SLOW = (*ITEMS, "Lightning", "Lightning, bare", "Ignite")
SOLE = {"line": ("tightest",), "images": ITEMS}
WORDS = {
    "mnist_mlp": ["dataset=mnist", "model=mlp", "model.hidden=[128,64]", "model.dropout=0.1"],
    "mnist_lenet": ["dataset=mnist", "model=lenet"],
    "digits_mlp": ["dataset=npz", "dataset.test=0", "model=mlp", "model.hidden=[128,64]"],
    "table_mlp": ["dataset=npz", "dataset.test=0", "model=mlp", "model.hidden=[64,64]", "loss=mse"],
    "line": ["dataset=npz", "dataset.test=0", "model=linear", "loss=mse"],
    "images": ["dataset=image_folder", "dataset.size=[64,64]", "model=linear"],
}
OURS = {"trainctl": (), "trainctl, guard=full": ("guard=full",)}
OURS_ON_IMAGES = {"trainctl": (), "trainctl, decoding": ("dataset.cache=false",)}
SAMPLES = {
    "mnist_mlp": 60000,
    "mnist_lenet": 60000,
    "digits_mlp": 1797,
    "table_mlp": 20000,
    "line": 200000,
    "images": 2000,
}
WALLS = ("mnist_mlp",)


def make_data(folder: Path, mnist: Path) -> None:
    """The works' arrays, and MNIST where every way finds it."""
    chance = np.random.default_rng(0)
    from safetensors.numpy import load_file

    digits = load_file(HERE.parent / "src/trainctl/components/datasets/digits.safetensors")
    np.savez(
        folder / "digits.npz", x=digits["images"].astype(np.float32), y=digits["labels"].astype(np.int64)
    )
    x = chance.normal(size=(20000, 20)).astype(np.float32)
    y = (np.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]).astype(np.float32)
    np.savez(folder / "table.npz", x=x, y=y)
    x = chance.normal(size=(200000, 1)).astype(np.float32)
    np.savez(folder / "line.npz", x=x, y=2 * x + 1)
    draw(folder / "images", SAMPLES["images"])
    for file in mnist.glob("*.gz"):
        (folder / file.name).symlink_to(file.resolve())
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))  # torchvision asks for these


def ours(work: str, data: Path) -> list[str]:
    if work.startswith("mnist"):
        path = f"dataset.root={data.parents[1]}"
    else:
        path = f"dataset.path={data / ('images' if work == 'images' else work.partition('_')[0] + '.npz')}"
    fixed = ["dataset.val=0", "optim=adam", "lr=1e-3", "batch_size=64", "scheduler=none"]
    return [TRAINCTL, *WORDS[work], path, *fixed, "display.mode=rich"]


def environment(threads: int | None) -> dict[str, str]:
    return {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {}), "COLUMNS": "160"}


def run_way(way: str, work: str, data: Path, threads: int | None, steps: int) -> dict[str, Any]:
    """One process of one way. Raises RuntimeError when it fails."""
    script, *options = WAYS[way]
    command = [sys.executable, str(HERE / "ways" / script), *options, work]
    command += ["--steps", str(steps), "--data", str(data)]
    # A progress bar writes more than a pipe holds.
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        with subprocess.Popen(
            command,
            cwd=folder,
            env=environment(threads),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process:
            assert process.stdout is not None
            first, last = None, ""
            for line in process.stdout:
                if first is None and "step 1" in line:
                    first = time.perf_counter() - started
                last = line if line.startswith("{") else last
        wall = time.perf_counter() - started
        errors.seek(0)
        if process.returncode or first is None:
            said = errors.read()[-500:]
            raise RuntimeError(f"{way} on {work} ended with exit {process.returncode}: {said}")
    return {**json.loads(last), "first_step": first, "wall": wall}


def run_ours(work: str, data: Path, threads: int | None, *words: str) -> dict[str, Any]:
    """trainctl on a terminal. Its steady speed is what the rows of its epochs show."""
    command = [*ours(work, data), *words, *([f"threads={threads}"] if threads else [])]
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
                # Ended, though a worker of its own still holds the terminal. It is asked below what it used.
                if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
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
    # The epochs' rows: number, loss, samples/s. The first has the first step in it.
    speeds = [
        float(speed.replace(",", ""))
        for number, speed in re.findall(r"(?m)(\d+)/\d+ +[\d.e+-]+ +([\d,]+) ", text)
        if number != "1"
    ]
    if process.returncode or not (speeds or {"epochs=1", "train.max_steps=10"} & {*words}):
        raise RuntimeError(f"trainctl on {work} ended with exit {process.returncode}: {text[-800:]}")
    batches = -(-SAMPLES[work] // 64)
    return {
        "steps_per_second": statistics.median(speeds) / SAMPLES[work] * batches if speeds else None,
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
    compile_package()
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
    for work in given.work:
        at_its_better(work, {key: found for key, found in results["works"].items() if key.startswith(work)})


def measure(
    work: str, data: Path, threads: int | None, given: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Rounds of all the ways in turn; the first, uncounted, fills caches."""
    possible = SOLE.get(work) or [way for way in WAYS if work.startswith("mnist") or way not in ITEMS]
    ways = [way for way in given.ways if way in possible]
    our_ways = OURS_ON_IMAGES if work == "images" else OURS
    steps = -(-SAMPLES[work] // 64)
    epochs = max(2, 2000 // steps) if work != "images" else 4
    found: dict[str, list[dict[str, Any]]] = {}
    for turn in range(given.rounds + 1):
        for way, words in our_ways.items():
            values = run_ours(work, data, threads, f"epochs={epochs}", *words)
            if turn and work in WALLS and way == "trainctl":
                values["epoch"] = run_ours(work, data, threads, "epochs=1")["wall"]
                values["smoke"] = run_ours(work, data, threads, "train.max_steps=10")["wall"]
            if turn:
                found.setdefault(way, []).append(values)
        for way in ways if turn else [way for way in ways if way not in SLOW]:
            long = steps if work in WALLS else 4 * steps if work == "images" else 250 if way in SLOW else 1000
            values = run_way(way, work, data, threads, long)
            if turn and work in WALLS:
                values["epoch"] = values["wall"]
                values["smoke"] = run_way(way, work, data, threads, 10)["wall"]
            if turn:
                found.setdefault(way, []).append(values)
    return found


def report(work: str, threads: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """A table as Markdown; ratios are trainctl's speed to the way's, round by round."""
    walls = work in WALLS
    print(f"\n{work}, {threads} thread{'' if threads == '1' else 's'}\n")
    print(
        f"| way | steps/s | trainctl is (spread) | first step |{' epoch | smoke |' if walls else ''} memory |"
    )
    print(f"|---|---|---|---|{'---|---|' if walls else ''}---|")
    base = [each["steps_per_second"] for each in found["trainctl"]]
    for way, rounds in found.items():
        speeds = [each["steps_per_second"] for each in rounds]
        cells = [way, f"{statistics.median(speeds):,.0f}", spread(base, speeds)]
        for key in ("first_step", *(("epoch", "smoke") if walls else ())):
            values = [each[key] for each in rounds if each.get(key)]
            cells.append(f"{statistics.median(values):.2f} s" if values else "")
        cells.append(f"{statistics.median(each['memory'] for each in rounds) / 1e6:.0f} MB")
        print(f"| {' | '.join(cells)} |")
    if work == "line":
        tightest = found["tightest"]
        more = [
            1e6 / one["steps_per_second"] - 1e6 / other["steps_per_second"]
            for one, other in zip(found["trainctl"], tightest, strict=True)
        ]
        print(f"\noverhead a step: {statistics.median(more):.0f} µs ({min(more):.0f} to {max(more):.0f})")
    versions = {name: v for rounds in found.values() for name, v in rounds[0]["versions"].items()}
    print("\n" + ", ".join(f"{name} {version}" for name, version in versions.items()), flush=True)


def spread(ours: list[float], theirs: list[float]) -> str:
    """The median of the ratios, and the lowest and the highest."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def at_its_better(work: str, found: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """Each way at the number of threads at which it is faster."""
    better: dict[str, tuple[str, list[float]]] = {}
    for key, ways in found.items():
        for way, rounds in ways.items():
            speeds = [each["steps_per_second"] for each in rounds]
            if way not in better or statistics.median(speeds) > statistics.median(better[way][1]):
                better[way] = key.partition(", ")[2], speeds
    print(f"\n{work}, each at its better number of threads\n\n| way | at | steps/s | trainctl is (spread) |")
    print("|---|---|---|---|")
    for way, (threads, speeds) in better.items():
        ratio = spread(better["trainctl"][1], speeds)
        print(f"| {way} | {threads} | {statistics.median(speeds):,.0f} | {ratio} |")


if __name__ == "__main__":
    main()
