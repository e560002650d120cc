"""Tar shards beside webdataset and beside the same images as files; and epochs of very many samples.

    python benchmarks/shards.py [--rounds 5] [--images 100000] [--workers 1] [--folder DIR]
    pip install webdataset    # only here

Small JPEG files in 100 shards. Every way decodes them by the same function in as many worker processes, and
takes the batches in the training process as floats. Each is a process of its own, in turn; one thread.

    bucket      dataset=shards at a URL (file://): windows of 8 shards, a cache of 0.3 of the data
    local       dataset=shards of local tar files, all samples mixed
    files       one file an image, all samples mixed: dataset=image_folder, dataset.cache=false
    webdataset  shards in random order, and a buffer of 5,000 samples to shuffle in

Samples/s are those of the last epoch, and so is the computing of all processes of a way, which a busy machine
changes less. Memory is what all processes of a way hold of their own (PSS), the
most in the first epoch and in the last. Virtual samples have no data: to start an epoch is all they take.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import nn

from trainctl.components.datasets.shards import shards
from trainctl.components.loaders.workers import WorkersLoader
from trainctl.data import ItemSplit, Standardize
from trainctl.data.images.decoding import Decoder
from trainctl.registry.protocols import Cursor

SIZE, SHARDS, BATCH, BUFFER = 64, 100, 256, 5000
WAYS = ("bucket", "local", "files", "webdataset")
DECODER = Decoder((SIZE, SIZE), 3, "crop")
CPU = torch.device("cpu")


def draw(folder: Path, images: int) -> None:
    """Smooth noise, which compresses as photographs do, in shards and as files."""
    random = numpy.random.default_rng(0)
    (folder / "tar").mkdir()
    for shard in range(SHARDS):
        files = folder / "files" / f"{shard:05d}"
        files.mkdir(parents=True)
        with tarfile.open(folder / "tar" / f"part-{shard:05d}.tar", "w") as archive:
            for number in range(shard * images // SHARDS, (shard + 1) * images // SHARDS):
                coarse = random.integers(0, 256, (8, 8, 3), dtype=numpy.uint8)
                stored = io.BytesIO()
                Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(stored, "JPEG")
                (files / f"{number:08d}.jpg").write_bytes(stored.getvalue())
                for extension, content in (("jpg", stored.getvalue()), ("cls", str(number % 10).encode())):
                    member = tarfile.TarInfo(f"{number:08d}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def decoded(sample: dict[str, bytes]) -> tuple[torch.Tensor, int]:
    return DECODER.read(io.BytesIO(sample["jpg"])), int(sample["cls"])


def stacked(samples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([image for image, _ in samples]), torch.tensor([target for _, target in samples])


def epochs(way: str, folder: Path, workers: int) -> Callable[[int], Iterator[int]]:
    """What goes through an epoch, giving the number of samples of each batch."""
    scale = Standardize(255.0, 0.5, 0.25)
    if way == "webdataset":
        import webdataset

        paths = sorted(map(str, (folder / "tar").iterdir()))
        stream = webdataset.WebDataset(paths, shardshuffle=len(paths), seed=0).shuffle(BUFFER).map(decoded)
        loader = webdataset.WebLoader(stream.batched(BATCH, stacked), batch_size=None, num_workers=workers)

        def go(epoch: int) -> Iterator[int]:
            for inputs, targets in loader:
                yield len(scale(inputs)) + 0 * len(targets)

        return go
    split: Any
    if way == "files":
        paths = sorted(map(str, (folder / "files").rglob("*.jpg")))
        split = ItemSplit(paths, torch.arange(len(paths)) % 10, DECODER)
    else:
        size = sum(path.stat().st_size for path in (folder / "tar").iterdir())
        given = (
            {"path": f"file://{folder}/tar", "window": 8} if way == "bucket" else {"path": f"{folder}/tar"}
        )
        split = shards(**given, cache_dir=str(folder / "cache"), cache_gb=0.3 * size / 1e9).train
    own = WorkersLoader(split, scale, BATCH, CPU, 0, workers=workers)

    def go_on(epoch: int) -> Iterator[int]:
        for batch in own.batches(Cursor(epoch, 0)):
            yield batch.count

    return go_on


def below() -> list[Path]:
    """This process and those below it, by their folders in /proc."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}
    found = []
    for pid in parents:
        above = pid
        while above not in (0, os.getpid()):
            above = parents.get(above, 0)
        if above and Path(f"/proc/{pid}/stat").exists():
            found.append(Path(f"/proc/{pid}"))
    return found


def held() -> tuple[float, float]:
    """Megabytes that these processes hold, shared pages by their share, and seconds that they computed."""
    size = ticks = 0
    for process in below():
        with contextlib.suppress(OSError):
            lines = (process / "smaps_rollup").read_text().splitlines()
            size += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            ticks += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return size / 1024, ticks / os.sysconf("SC_CLK_TCK")


def measure(way: str, folder: Path, workers: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    started = time.perf_counter()
    go = epochs(way, folder, workers)
    found: dict[str, Any] = {"ready": time.perf_counter() - started, "speeds": [], "memory": [], "cpu": 0.0}
    for epoch in range(rounds):
        begun = held()[1]
        started, samples, most, looked = time.perf_counter(), 0, 0.0, 0.0
        for number, count in enumerate(go(epoch)):
            samples += count
            if number % 20 == 19:
                before = time.perf_counter()
                size, computed = held()
                most, found["cpu"] = max(most, size), 1e6 * (computed - begun) / samples
                looked += time.perf_counter() - before
        found["speeds"].append(samples / (time.perf_counter() - started - looked))
        found["memory"].append(most)
    return found


def virtual(samples: int) -> dict[str, float]:
    """Seconds to the first batch of an epoch, and of one in its middle, and the megabytes that they take."""
    targets = torch.zeros((), dtype=torch.int64).expand(samples)
    split = ItemSplit(range(samples), targets, lambda item: torch.tensor([item]))
    loader = WorkersLoader(split, nn.Identity(), BATCH, CPU, 0, workers=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    next(loader.batches(Cursor(1, 0)))
    first = time.perf_counter() - started
    started = time.perf_counter()
    next(loader.batches(Cursor(1, samples // BATCH // 2 * BATCH)))
    middle = time.perf_counter() - started
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"first": first, "middle": middle, "memory": used}


def own_process(*words: object) -> Any:
    command = [sys.executable, __file__, *map(str, words)]
    single = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=single)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="where the images go: the disk to measure")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--virtual", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.virtual:
        print(json.dumps(virtual(asked.virtual)))
    elif asked.way:
        print(json.dumps(measure(asked.way, asked.folder, asked.workers, asked.epochs)))
    else:
        compare(asked)


def compare(asked: argparse.Namespace) -> None:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}; medians of {asked.rounds} rounds")
    for samples in (10**3, 10**7, 10**8, 10**9):
        found = own_process("--virtual", samples)
        print(
            f"{samples:.0e} virtual samples: first batch of an epoch after {found['first']:.3f} s, one in its"
            f" middle after {found['middle']:.3f} s, {found['memory']:.0f} MB"
        )
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        draw(folder, asked.images)
        print(f"{asked.images} images, {asked.workers} workers; lowest and highest in parentheses")
        options = ("--folder", folder, "--workers", asked.workers, "--epochs", asked.epochs)
        results: dict[str, list[Any]] = {way: [] for way in WAYS}
        for _ in range(asked.rounds):
            for way in WAYS:
                results[way].append(own_process("--way", way, *options))
    faster = [
        max(each["speeds"][-1] for each in both)
        for both in zip(results["files"], results["webdataset"], strict=True)
    ]
    for way, each in results.items():
        speeds = [one["speeds"][-1] for one in each]
        ratios = sorted(speed / fast for speed, fast in zip(speeds, faster, strict=True))
        print(
            f"{way:<11}{statistics.median(speeds):8,.0f} samples/s, {statistics.median(ratios):.2f}"
            f" ({ratios[0]:.2f} to {ratios[-1]:.2f}) of the faster of files and webdataset;"
            f" {statistics.median(one['cpu'] for one in each):.0f} µs of computing a sample;"
            f" {max(one['memory'][0] for one in each):.0f} MB in the first epoch,"
            f" {max(one['memory'][-1] for one in each):.0f} MB in the last; ready after"
            f" {each[0]['ready']:.1f} s the first time, {each[-1]['ready']:.1f} s the last"
        )


if __name__ == "__main__":
    main()
