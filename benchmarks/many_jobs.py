"""A sweep of very many jobs without the training: what its ledger, its pool and its table cost.

    python benchmarks/many_jobs.py [--jobs 100 1000 10000] [--real 1000] [--epochs 1]

For each number of jobs: composing and checking them, writing the ledger, a row's life (begin, heartbeat, end,
each read back), one look of the display at all rows while a few run, the ranked table, and the memory of the
process. ``--real`` trains so many jobs on a Ray of this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainctl.analysis.ranking import compare
from trainctl.config.composer import Composer
from trainctl.runs.directory import claim_sweep
from trainctl.sweep.checking import check_jobs
from trainctl.sweep.ledger import Job, Ledger, Row, here
from trainctl.ui.compare import show

TRAINCTL = str(Path(sys.executable).with_name("trainctl"))


@contextlib.contextmanager
def timed(found: dict[str, float], name: str, count: int = 1) -> Iterator[None]:
    """Store the seconds of the block, divided by ``count``."""
    started = time.perf_counter()
    yield
    found[name] = (time.perf_counter() - started) / count


def memory() -> float:
    """The most MB that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def words_for(jobs: int) -> list[str]:
    seeds = 10 if jobs >= 10 else jobs
    rates = ",".join(f"{1e-4 * (1 + each):.4g}" for each in range(jobs // seeds))
    return ["optim=sgd", f"optim.lr={rates}", f"seed={','.join(map(str, range(seeds)))}", "pictures=false"]


def life(ledger: Ledger, jobs: list[Job]) -> None:
    """Each job begins, beats and ends, and each row is read after that."""
    for job in jobs:
        row = here(Row(state="running", attempts=1, started="2026-01-01T00:00:00Z"))
        done = replace(row, state="done", seconds=1.0)
        for write, now in ((ledger.write, row), (ledger.beat, row), (ledger.write, done)):
            write(job, now)
            ledger.stored(job)


def finish(ledger: Ledger, jobs: list[Job], sample: Path) -> None:
    """Give each job the run directory of a run of one epoch: links to what the table does not read."""
    record = json.loads((sample / "run.json").read_text())
    for job in jobs:
        directory = ledger.directory_of(job)
        directory.mkdir()
        value = 0.5 + (hash(job.key) % 1000) / 2500
        best = {**record["best"], record["monitor"]["name"]: value}
        (directory / "run.json").write_text(json.dumps({**record, "best": best}))
        (directory / "metrics.jsonl").write_bytes((sample / "metrics.jsonl").read_bytes())
        for name, text in job.files.items():
            (directory / name).write_text(text)


def on_paper(count: int, folder: Path, sample: Path) -> dict[str, float]:
    """Seconds and MB of a sweep with ``count`` jobs that are not trained."""
    found: dict[str, float] = {"jobs": count}
    with timed(found, "compose and check, s"):
        checked = check_jobs(Composer(None, "config"), words_for(count))
    jobs = checked.jobs
    directory = claim_sweep(folder / str(count), named=True)
    with timed(found, "write jobs.jsonl, s"):
        ledger = Ledger.begin(directory, command="trainctl", words=[], launcher="ray", plugins=[])
        ledger.add(jobs)
    with timed(found, "read jobs.jsonl, s"):
        Ledger(directory).jobs()
    with timed(found, "one look at all rows, s"):
        for job in jobs:
            ledger.row(job)
    operations = 6 * count
    with timed(found, "row operations/s", operations):
        life(ledger, jobs)
    found["row operations/s"] = 1 / found["row operations/s"]
    finish(ledger, jobs, sample)
    found["MB before the table"] = memory()
    with timed(found, "ranked table, s"):
        show(compare([directory]), io.StringIO())
    found["MB with the table"] = memory()
    return found


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own, whose memory is only that of this one."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            json.dump(function(*arguments), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result = json.load(pipe)
    os.waitpid(child, 0)
    return result


def for_real(count: int, epochs: int, folder: Path, launcher: list[str]) -> dict[str, Any]:
    """A sweep of ``count`` trained jobs: seconds from Enter to the prompt, and what the driver took."""
    words = [*words_for(count), f"epochs={epochs}", "threads=1", "display.mode=none", *launcher]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    command = [TRAINCTL, "-m", *words, f"hydra.sweep.dir={folder / 'real'}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = [entry.row for entry in Ledger(folder / "real").rows()]
    if done.returncode or [row.state for row in rows] != ["done"] * count:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr[-500:]}")
    trained = sum(row.seconds or 0.0 for row in rows)
    ended = sorted(row.ended or "" for row in rows)
    return {
        "seconds": round(seconds, 1),
        "jobs/s": round(count / seconds, 2),
        "seconds of a job": round(trained / count, 3),
        "first and last end": [ended[0], ended[-1]],
        "CPU seconds of the sweep's process and its children": round(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1
        ),
        "MB of the largest of them": round(after.ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--real", type=int, default=0, metavar="JOBS", help="train so many on a local Ray")
    parser.add_argument("--epochs", type=int, default=1, help="of each trained job")
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = [TRAINCTL, "epochs=1", "threads=1", "display.mode=none", "hydra.run.dir=sample"]
        subprocess.run(one, cwd=folder, check=True, capture_output=True)
        for count in given.jobs:
            found = in_process(on_paper, count, folder, folder / "sample")
            print("\n" + "\n".join(f"{key:>26}  {value:,.3f}" for key, value in found.items()))
        if given.real:
            launcher = ["hydra/launcher=ray", "hydra.launcher.address=local"]
            print(f"\n{given.real} jobs on Ray")
            for key, value in for_real(given.real, given.epochs, folder, launcher).items():
                print(f"{key:>52}  {value}")


if __name__ == "__main__":
    main()
