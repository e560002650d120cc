"""A table of numbers read by trainctl, pandas and pyarrow: seconds and memory.

    python benchmarks/table_reading.py [--rows 500000] [--columns 20] [--rounds 3] [--folder DIR]

Each reading is a fresh process with one thread; the ways take turns, and medians are compared. Seconds are
those of the reading alone, without imports; memory is what the process's peak grows by meanwhile.

    trainctl   dataset=csv: columns checked, test rows held out, float32; with the cache turned off
    first      the same, and the cache is written
    second     the same from the cache
    parquet    dataset=parquet, the cache turned off
    pyarrow    pyarrow.csv.read_csv
    pandas     pandas.read_csv, where it is installed
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import pyarrow
from pyarrow import csv, parquet

_CHILD = """
import json, resource, sys, time
way, path = sys.argv[1:]
if way == "pandas":
    import pandas
    read = lambda: pandas.read_csv(path)
elif way == "pyarrow":
    from pyarrow import csv
    read = lambda: csv.read_csv(path, read_options=csv.ReadOptions(use_threads=False))
else:
    import torch
    torch.set_num_threads(1)
    from trainctl.components.datasets.csv import csv
    from trainctl.components.datasets.parquet import parquet
    cache = way in ("first", "second")
    read = lambda: (parquet if way == "parquet" else csv)(path, cache=cache)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, started = peak(), time.perf_counter()
kept = read()
print(json.dumps([time.perf_counter() - started, peak() - before]))
"""


def write(folder: Path, rows: int, columns: int) -> Path:
    random = numpy.random.default_rng(0)
    values = {f"x{number}": random.normal(size=rows).round(4) for number in range(columns - 1)}
    values["y"] = sum(values.values()).round(4)
    table = pyarrow.table(values)
    parquet.write_table(table, folder / "table.parquet")
    csv.write_csv(table, folder / "table.csv")
    return folder / "table.csv"


def timed(way: str, table: Path) -> tuple[float, float]:
    if way == "first":
        shutil.rmtree(table.with_name(f".{table.name}.trainctl"), ignore_errors=True)
    path = table.with_suffix(".parquet") if way == "parquet" else table
    command = [sys.executable, "-c", _CHILD, way, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    words = parser.parse_args()
    ways = ["pyarrow", "trainctl", "first", "second", "parquet"]
    ways += ["pandas"] if importlib.util.find_spec("pandas") else []
    with tempfile.TemporaryDirectory(dir=words.folder) as folder:
        table = write(Path(folder), words.rows, words.columns)
        print(f"{words.rows:,} x {words.columns}, {table.stat().st_size / 1e6:.0f} MB, {words.rounds} rounds")
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(words.rounds):
            for way in ways:
                found[way].append(timed(way, table))
    result = words.rows * words.columns * 4 / (1 << 20)
    against = statistics.median(seconds for seconds, _ in found["pyarrow"])
    print(f"{'way':10} {'s':>7} {'x pyarrow':>10} {'MB':>7} {'x float32':>10}")
    for way, each in found.items():
        seconds, memory = (statistics.median(values) for values in zip(*each, strict=True))
        print(f"{way:10} {seconds:7.2f} {seconds / against:10.2f} {memory:7.0f} {memory / result:10.2f}")


if __name__ == "__main__":
    main()
