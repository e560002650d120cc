"""All that needs a CUDA device, in one command, without a network and in six minutes.

    python benchmarks/gpu.py [--out DIR] [--mnist DIR] [--parts tests steps …] [--seconds 360]
    python benchmarks/gpu.py --device cpu --quick

The tests marked ``gpu``, then trainctl beside its rivals on the same device and in the same minutes: steps a
second, the start, one epoch of MNIST, 64 models, a model of 135 million parameters. Each part is a process
with a time limit, and each figure is written when it is there, into DIR/gpu.json and the section "On a GPU"
of DIR/RESULTS.md: a part that fails or hangs loses no other's. Exit code 1 where one has failed; what it
has printed stands in DIR/gpu-PART.log.

MNIST is taken from ``--mnist``, the folder of its .gz files, or from shared/data beside the repository; where
it is absent, images of its shape are made up. ``--quick`` makes everything small, to try the command itself
on the CPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
# The part, its heading, and the most seconds it may take.
PARTS = {
    "tests": ("The tests marked `gpu`", 150),
    "steps": ("Steps a second, batch 64", 120),
    "start": ("From Enter to the first step", 60),
    "epoch": ("One epoch of MNIST, from Enter to the prompt", 60),
    "sweep": ("Many models, from Enter to the ranked table", 100),
    "large": ("135 million parameters, batch 64", 70),
}
FILES = [
    f"{split}-{what}.gz" for split in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
]
_LEAST = 5.0
BEGIN, END = "## On a GPU\n", "\n## "


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes: only to see that all of it works")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=360.0, help="the most that all parts may take")
    parser.add_argument("--mnist", type=Path, help="the folder of MNIST's four .gz files")
    parser.add_argument("--out", type=Path, help="benchmarks; outputs/gpu with --quick")
    asked = parser.parse_args()
    asked.out = asked.out or (REPOSITORY / "outputs" / "gpu" if asked.quick else HERE)
    return asked


def make_mnist(root: Path, given: Path | None, quick: bool) -> str:
    """MNIST's files below ``root``; returns a word on where they come from."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    places = (
        [given] if given else [base / "shared/data/MNIST/raw" for base in (REPOSITORY, REPOSITORY.parent)]
    )
    found = next((place for place in places if all((place / name).is_file() for name in FILES)), None)
    if found is not None and not quick:
        for name in FILES:
            (raw / name).symlink_to((found / name).resolve())
        return "MNIST"
    import numpy

    random = numpy.random.default_rng(0)
    patterns = random.integers(0, 128, (10, 784))
    for split, count in (("train", 60_000), ("t10k", 10_000)):
        count = count // 50 if quick else count
        labels = random.integers(0, 10, count).astype(numpy.uint8)
        images = (patterns[labels] + random.integers(0, 128, (count, 784))).astype(numpy.uint8)
        for name, header, content in (
            ("images-idx3", struct.pack(">4i", 2051, count, 28, 28), images),
            ("labels-idx1", struct.pack(">2i", 2049, count), labels),
        ):
            with gzip.open(raw / f"{split}-{name}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(header + content.tobytes())
    return "made-up images of MNIST's shape"


def environment(folder: Path, device: str) -> dict[str, str]:
    """For all processes: this repository's trainctl, and nothing fetched."""
    paths = [str(REPOSITORY / "src"), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    # Processes that share few cores wait for each other's threads.
    threads = {"OMP_NUM_THREADS": "1"} if device == "cpu" else {}
    return {**os.environ, **kept, **threads, "XDG_STATE_HOME": str(folder / "state"), "COLUMNS": "160"}


def run_part(command: list[str], folder: Path, device: str, seconds: float) -> str:
    """Run a part in a process group of its own; returns why it failed, or nothing."""
    log = folder / "log"
    with log.open("w+b") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder, device),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code: int | str = process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            code = f"was stopped after {round(seconds, 1):g} s"
            if isinstance(error, KeyboardInterrupt):
                code = "was interrupted"
        with contextlib.suppress(ProcessLookupError):  # sweeps and loaders have processes of their own
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code == 0:
        return ""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = lines[-1][-300:] if lines else "it said nothing"
    return f"{code if isinstance(code, str) else f'exit {code}'}: {said}"


def measure(part: str, asked: argparse.Namespace, folder: Path, root: Path, left: float) -> dict[str, Any]:
    """The rows of a part, as far as it came, and why it failed where it did."""
    limit = min(PARTS[part][1] * (3 if asked.quick else 1), left)  # it is tried on slower machines
    if limit < _LEAST:
        return {"rows": [], "failed": "there was no time left"}
    folder.mkdir()
    result = folder / "rows.json"
    command = [
        sys.executable,
        str(HERE / "gpu_parts.py"),
        part,
        "--device",
        asked.device,
        "--rows",
        str(result),
    ]
    command += ["--root", str(root), "--folder", str(folder), *(["--quick"] if asked.quick else [])]
    started = time.perf_counter()
    failed = run_part(command, folder, asked.device, limit)
    if failed:
        asked.out.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "log", asked.out / f"gpu-{part}.log")
    found: dict[str, Any] = {"rows": [], "failed": failed}
    with contextlib.suppress(OSError, ValueError):
        found |= json.loads(result.read_text())
    return {**found, "seconds": round(time.perf_counter() - started, 1)}


def write(out: Path, results: dict[str, Any]) -> None:
    """Write what is known so far: as JSON, and as a section of RESULTS.md in place of the earlier one."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    path = out / "RESULTS.md"
    text = path.read_text() if path.exists() else "# Results\n"
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)
    kept = after[1].lstrip("\n") + after[2] if begin else ""
    path.write_text(f"{before.rstrip()}\n\n{BEGIN}\n{section(results)}" + (f"\n{kept}" if kept else ""))


def section(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    about = results.get("about", {})
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    lines = [f"`make gpu`, {results['when']}: {about.get('device', results['device'])}, {versions}.", ""]
    lines += [f"Data: {results['data']}. Medians of rounds, with their spread; ratios within a round."]
    if results["quick"]:
        lines += ["", "**`--quick`: small sizes, to see that all of it works. The figures mean nothing.**"]
    for part, found in results["parts"].items():
        lines += ["", f"### {PARTS[part][0]}", "", *table(found["rows"]), *found.get("notes", [])]
        if found["failed"]:
            lines += [f"**Not all of it was done:** {re.sub(r'[|`*]', ' ', found['failed'])}"]
    return "\n".join(lines).rstrip() + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as a table, with a column for each of their keys."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if not keys:
        return []
    lines = [f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
    return [*lines, *(f"| {' | '.join(str(row.get(key, '')) for key in keys)} |" for row in rows), ""]


def main() -> int:
    asked = arguments()
    ends = time.monotonic() + asked.seconds
    results: dict[str, Any] = {
        "when": time.strftime("%Y-%m-%d %H:%M"), "device": asked.device, "quick": asked.quick, "parts": {}
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results["data"] = make_mnist(folder / "data", asked.mnist, asked.quick)
        for part in ("about", *asked.parts):
            if part == "about":
                PARTS[part] = ("", 60)
            found = measure(part, asked, folder / part, folder / "data", ends - time.monotonic())
            if part == "about":
                del PARTS[part]
                results["about"] = found.get("about", {})
                if found["failed"]:
                    print(f"no use of {asked.device}: {found['failed']}", file=sys.stderr)
                    return 1
                print(section({**results, "parts": {}}))
                continue
            results["parts"][part] = found
            print("\n".join([f"{PARTS[part][0]} ({found.get('seconds', 0)} s)", *table(found["rows"])]))
            print("\n".join([*found.get("notes", []), found["failed"], ""]), flush=True)
            write(asked.out, results)
    print(f"written: {asked.out / 'RESULTS.md'}, {asked.out / 'gpu.json'}")
    return int(any(found["failed"] for found in results["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
