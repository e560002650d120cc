"""The parts of benchmarks/gpu.py, each in a process of its own that it starts."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_rows import Rows, spread

HERE = Path(__file__).resolve().parent
TRAINCTL = [sys.executable, "-m", "trainctl"]
_WORDS = "(PASSED|FAILED|ERROR|SKIPPED)"
# What pytest says of a test, of several at a time and one by one.
_OUTCOME = re.compile(rf"\[gw\d+\] \[ *\d+%\] {_WORDS} (\S+::.+?) *$|(\S+::.+?) {_WORDS}")


# ------------------------------------------------------------------ about, tests


def about(asked: argparse.Namespace, rows: Rows) -> None:
    """The device's name and all versions. Fails where the device is not there."""
    from importlib import metadata

    import torch

    from trainctl.training.runtime import choose_device, device_name

    device = choose_device(asked.device)
    name = f"{device_name(device)}, {platform.machine()}, {os.cpu_count()} cores"
    versions = {"Python": platform.python_version(), "torch": torch.__version__}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        name += f", {about.total_memory / 2**30:.0f} GiB, compute capability {about.major}.{about.minor}"
        versions |= {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
    for package in ("trainctl", "lightning", "numpy", "safetensors"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    torch.ones(2, device=device).sum().item()
    rows.put(about={"device": name, "versions": versions})


def tests(asked: argparse.Namespace, rows: Rows) -> None:
    """The tests marked gpu; those that fail are named."""
    root = HERE.parent
    files = sorted(path for path in (root / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text())
    # Settings of its own: the project's ask for plugins that the machine may lack.
    settings = asked.folder / "pytest.ini"
    markers = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    settings.write_text("\n  ".join(["[pytest]\nfilterwarnings = error\nmarkers =", *markers, "timeout(s)"]))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
        "--tb=short",
    ]
    command += ["-c", str(settings), "--rootdir", str(root), f"--basetemp={asked.folder / 'tests'}"]
    command += ["--continue-on-collection-errors", "-rN", *map(str, files)]
    if find_spec("xdist"):
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    outcomes: dict[str, int] = {}
    bad: list[str] = []
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            print(line, end="", flush=True)
            said = [*said[-200:], line.strip()]
            if not (found := _OUTCOME.match(line)):
                continue
            name, outcome = found[2] or found[3], (found[1] or found[4]).lower()
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            bad += [f"- `{name}`: {outcome}"] if outcome in ("failed", "error") else []
            rows.put(rows=[outcomes], notes=bad)
    reasons = [f"- {line[:300]}" for line in said if line.startswith("E  ")]
    rows.put(rows=[outcomes], notes=[*bad, *reasons])
    if run.returncode:
        sys.exit(f"pytest ended with exit {run.returncode}: {said[-1] if said else ''}")


# ------------------------------------------------------------------ whole processes


def wall(asked: argparse.Namespace, command: list[str], until: str = "") -> float:
    """Seconds of a process, or until it prints ``until``. Raises RuntimeError when it fails."""
    folder = asked.folder / f"run-{time.monotonic_ns()}"
    folder.mkdir()
    errors = folder / "errors"
    started = time.perf_counter()
    with (
        errors.open("w") as file,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=file, text=True) as process,
    ):
        assert process.stdout is not None
        seen = 0.0
        for line in process.stdout:
            if until and not seen and until in line:
                seen = time.perf_counter() - started
    if process.returncode or (until and not seen):
        said = errors.read_text(errors="replace").strip().splitlines()
        raise RuntimeError(f"{command[1:4]} ended with exit {process.returncode}: {said[-1:]}")
    return seen or time.perf_counter() - started


def compared(rows: Rows, rounds: int, ways: dict[str, Callable[[], float]]) -> None:
    """Rounds of all ways in turn; the first way is trainctl."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    failed: dict[str, str] = {}
    first = next(iter(ways))
    for _ in range(rounds):
        for way, take in ways.items():
            if way in failed:
                continue
            try:
                found[way].append(take())
            except Exception as error:
                failed[way] = f"- {way}: {type(error).__name__}: {error}"[:400]
            known = {name: each for name, each in found.items() if each}
            lines = [
                {
                    "way": name,
                    "seconds": f"{statistics.median(each):.2f}",
                    f"{first} is": spread([b / a for a, b in zip(found[first], each, strict=False)]),
                }
                for name, each in known.items()
            ]
            rows.put(
                rows=lines, notes=[*rows.content.get("notes", []), *([failed[way]] if way in failed else [])]
            )
    if failed:
        sys.exit(next(iter(failed.values())))


def start(asked: argparse.Namespace, rows: Rows) -> None:
    """From Enter to the first step's loss, against a bare script."""
    words = ["train.max_steps=1", "display.mode=plain", "display.every=1", f"device={asked.device}"]
    bare = [sys.executable, str(HERE / "bare.py"), asked.device]
    ways = {
        "trainctl": lambda: wall(asked, [*TRAINCTL, *words], "Step [1/"),
        "bare script": lambda: wall(asked, bare, "step 1/"),
    }
    compared(rows, 1 if asked.quick else 3, ways)


def epoch(asked: argparse.Namespace, rows: Rows) -> None:
    """One epoch: trainctl with checkpoints and the test on 10,000 digits, the others train only."""
    count = -(-(1200 if asked.quick else 60_000) // 64)
    words = ["dataset=mnist", f"dataset.root={asked.root}", "model=mlp", "model.hidden=[128,64]", "epochs=1"]
    words += ["model.dropout=0.1", "dataset.val=0", "optim=adam", f"device={asked.device}", "scheduler=none"]

    def way(script: str, *options: str) -> Callable[[], float]:
        command = [sys.executable, str(HERE / "ways" / script), *options, "mnist_mlp", "--steps", str(count)]
        command += ["--data", str(asked.root / "MNIST" / "raw"), "--device", asked.device]
        return lambda: wall(asked, command)

    def trainctl(*more: str) -> Callable[[], float]:
        return lambda: wall(asked, [*TRAINCTL, *words, "display.mode=plain", *more])

    ways = {
        "trainctl": trainctl(),
        "trainctl, train.capture=false": trainctl("train.capture=false"),
        "tightest by hand": way("tightest.py"),
        **({"Lightning, bare": way("lightning_loop.py", "--bare")} if find_spec("lightning") else {}),
    }
    compared(rows, 1 if asked.quick else 2, ways)


def sweep(asked: argparse.Namespace, rows: Rows) -> None:
    """64 models on digits: stacked, in parallel processes, one by one."""
    models, seeds = (4, 2) if asked.quick else (64, 4)
    rates = ",".join(f"{1e-3 * 1.2**number:.6g}" for number in range(models // seeds))
    common = ["-m", f"lr={rates}", f"seed={','.join(map(str, range(seeds)))}", "model.hidden=[64,64]"]
    common += [f"epochs={1 if asked.quick else 5}", f"device={asked.device}", "display.mode=none"]
    said: list[str] = []

    def timed(*more: str) -> float:
        directory, started = asked.folder / f"sweep-{time.monotonic_ns()}", time.time()
        seconds = wall(asked, [*TRAINCTL, *common, *more, f"hydra.sweep.dir={directory}"])
        records = [json.loads(path.read_text()) for path in directory.glob("*/run.json")]
        stacked = sum(record.get("engine") == "fused" for record in records)
        if [record["status"] for record in records] != ["done"] * models:
            raise RuntimeError(f"{len(records)} of {models} jobs, not all done")
        if "hydra/launcher=fused" in more:
            points = {
                "jobs checked": "jobs.jsonl",
                "runs begun": "*/config.yaml",
                "trained": "*/metrics.jsonl",
            }
            reached = {
                point: max(path.stat().st_mtime for path in directory.glob(files)) - started
                for point, files in points.items()
            }
            after = ", ".join(f"{point} after {spent:.1f} s" for point, spent in reached.items())
            said.append(f"{stacked} of {models} models were trained in a stack: {after}.")
            rows.put(notes=said)
        return seconds

    ways = {
        f"{models} models, fused": lambda: timed("hydra/launcher=fused"),
        "sweep.jobs=4": lambda: timed("sweep.jobs=4"),
        "one by one": lambda: timed("sweep.jobs=1"),
    }
    compared(rows, 1, ways)
    stacked(asked, rows)


def stacked(asked: argparse.Namespace, rows: Rows) -> None:
    """The same without the start, in one warm process: two epochs of MNIST by 64 models together, and by some
    of them one after the other."""
    import fused

    models, few = (4, 2) if asked.quick else (64, 4)
    fused.COMMON = (f"device={asked.device}", "display.mode=none", "pictures=false")
    words = ("dataset=mnist", f"dataset.root={asked.root}", "dataset.val=0.1", "model.hidden=[128,64]")
    composed = fused.jobs((*words, "train.epochs=2"), models)

    def taken(way: Callable[..., None], name: str, jobs: list[Any]) -> tuple[float, float]:
        """Seconds of a model, and samples a second of all models while they train."""
        requests = fused.requests(jobs, asked.folder / f"stack-{name}", 1)
        started = time.perf_counter()
        way(requests)
        seconds = (time.perf_counter() - started) / len(jobs)
        lines = [(each.directory / "metrics.jsonl").read_text().splitlines() for each in requests]
        last = [next(line for line in reversed(own) if "samples_per_second" in line) for own in lines]
        speeds = [json.loads(line)["samples_per_second"] for line in last]
        return seconds, sum(speeds) if name == "together" else statistics.median(speeds)

    taken(fused.one_by_one, "warm", composed[:1])
    alone = taken(fused.one_by_one, "alone", composed[:few])
    together = taken(fused.fused, "together", composed)
    ratio, faster = alone[0] / together[0], together[1] / alone[1]
    said = (
        f"Without the start, 2 epochs of MNIST by 784-128-64-10: {1e3 * together[0]:.0f} ms a model of"
        f" {models} in a stack, {1e3 * alone[0]:.0f} ms one by one (mean of {few}): {ratio:.1f} times as"
        f" fast; its second epoch {together[1]:,.0f} samples/s in a stack, {alone[1]:,.0f} one by one:"
        f" {faster:.1f} times."
    )
    rows.put(rows=rows.content.get("rows", []), notes=[*rows.content.get("notes", []), said])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "part", choices=["about", "tests", "steps", "start", "epoch", "sweep", "large", "smoke"]
    )
    parser.add_argument("--device", required=True)
    for name in ("--rows", "--root", "--folder"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if asked.part in ("steps", "large"):
        import gpu_training

        part = getattr(gpu_training, asked.part)
    else:
        part = globals()[asked.part]
    part(asked, Rows(asked.rows))


if __name__ == "__main__":
    main()
