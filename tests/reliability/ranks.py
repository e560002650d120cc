"""Several processes that train one run: one of them, or all, are killed or stopped at random moments."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.helpers.ranks import ForkedRank
from tests.reliability.children import Trial, spawn
from tests.reliability.disk import BEFORE, Disk, killing
from tests.reliability.runs import OUTPUTS, RUN, Patch, note_modules, nothing, warm
from trainctl.checkpoint.format import read_checkpoint
from trainctl.cli import rank as cli_rank
from trainctl.cli.main import main
from trainctl.distributed import launch
from trainctl.training.devices import RanksRandomStates

_WORDS = [
    "dataset=synthetic", "dataset.shape=[8]", "dataset.outputs=3", "model.hidden=[8]", "threads=1",
    "train.batch_size=16", "train.max_steps=120", "display.mode=none", "checkpoint.every_steps=4",
    "checkpoint.keep_last=2", "strategy.timeout=20", f"hydra.run.dir={RUN}",
]  # fmt: skip
_LASTS, _LEFT = 1.5, 10.0
_PIDS = Path("ranks.txt")
_NUMBERS = "numbers.json"
THREE = ("devices=3",)
CUT = ("strategy=fsdp", "strategy.min_parameters=1")
"""Words of a run whose model is cut among its processes."""


class _Noted(ForkedRank):
    """A rank whose process is written down for whoever kills it."""

    def __init__(self, command: list[str], **others: Any) -> None:
        super().__init__(command, **others)
        with _PIDS.open("a") as file:
            file.write(f"{self.pid}\n")


def killed(root: Path, times: int, *words: str) -> list[Trial]:
    """A random process, or all, killed or stopped at a random moment; resumed on one to three devices."""
    reference = root / "reference"
    reference.mkdir(parents=True)
    ended = spawn(partial(_train, note_modules, *words), reference)
    if ended.code:
        return [Trial("a run of several devices left in peace", lambda folder: str(ended))]
    warm(reference)
    return [
        Trial(f"ranks killed, {number}", partial(_once, reference, number, words)) for number in range(times)
    ]


def at_every_operation_of_a_save(root: Path) -> list[Trial]:
    """A process that holds a part of the model is killed at each operation of its second save."""
    words = (*CUT, "train.max_steps=8", "checkpoint.keep_last=1")
    reference = root / "reference"
    reference.mkdir(parents=True)
    ended = spawn(partial(_train, note_modules, *words), reference)
    if ended.code:
        return [Trial("a run of two devices left in peace", lambda folder: str(ended))]
    warm(reference)
    trials = []
    for rank in (0, 1):
        folder = root / f"rank-{rank}"
        folder.mkdir()
        spawn(partial(_on_a_disk, rank, None, words), folder)
        for number in json.loads((folder / _NUMBERS).read_text()):
            name = f"rank {rank} killed at operation {number}"
            trials.append(Trial(name, partial(_killed_on_a_disk, reference, rank, number, words)))
    return trials


def bites(root: Path) -> list[Trial]:
    """Without the random states of all ranks a resumed run is another one."""

    def forget() -> None:
        RanksRandomStates.load_state_dict = lambda self, state: None  # type: ignore[method-assign]

    def tried(folder: Path) -> str | None:
        runs = {"whole": [], "parts": ["train.max_steps=20"], "planted": ["train.max_steps=20"]}
        for name, words in runs.items():
            (folder / name).mkdir()
            spawn(partial(_train, nothing, *words), folder / name)
            patch = forget if name == "planted" else nothing
            if words:
                spawn(partial(_resume, patch, 2, "train.max_steps=120"), folder / name)
        same, other = (
            _other_weights(folder / "whole" / RUN, folder / name / RUN) for name in ("parts", "planted")
        )
        return same or (None if other else "nothing was missed")

    return [Trial("random states of ranks", tried)]


def _train(afterwards: Callable[[], None], *words: str) -> int:
    launch.Process = _Noted  # type: ignore[misc, assignment]
    # Dropout shows whether each rank goes on with its own random numbers.
    several = () if set(THREE) <= set(words) else ("devices=2",)
    code = main([*_WORDS, "model.dropout=0.2", *several, *words])
    afterwards()
    return code


def _resume(patch: Patch, devices: int, *words: str) -> int:
    launch.Process = _Noted  # type: ignore[misc, assignment]
    patch()
    return main(["resume", str(RUN), f"devices={devices}", "strategy.timeout=20", *words])


def _once(reference: Path, seed: int, words: Sequence[str], folder: Path) -> str | None:
    draw = random.Random(seed)
    whom, after = draw.choice(["rank 0", "others", "all", "stopped"]), draw.uniform(0.0, _LASTS)
    devices = draw.choice([1, 2, 2, 3, 3])
    ended = spawn(partial(_with_a_killer, words, whom, after), folder, timeout=60)
    if ended.timed_out:
        return f"{whom}: {ended}"
    return _goes_on(reference, folder, words, devices, f"{whom} after {after:.2f} s")


def _goes_on(reference: Path, folder: Path, words: Sequence[str], devices: int, what: str) -> str | None:
    """Why the run does not go on as the reference did; None where it does."""
    if left := _left(folder):
        return f"{what}: processes {left} are left"
    trained = 3 if set(THREE) <= set(words) else 2
    again = spawn(partial(_resume, nothing, devices), folder, timeout=60)
    if again.code in (2, 4):  # killed before there was anything to go on from
        shutil.rmtree(folder / "outputs", ignore_errors=True)
        again = spawn(partial(_train, nothing, *words), folder, timeout=60)
        devices = trained
    if again.code:
        return f"{what}, then devices={devices}: {again}"
    return _difference(reference / RUN, folder / RUN, exact=devices == trained)


def _on_a_disk(rank: int, number: int | None, words: Sequence[str]) -> int:
    """Train; the process of ``rank`` is killed at its operation ``number``, or notes those on checkpoints."""
    follow = cli_rank.follow
    disk = Disk(Path.cwd() / OUTPUTS, None if number is None else killing(number, BEFORE))

    def watched(work: Callable[[], int]) -> int:
        disk.install()
        code = work()
        done = [op for op in disk.ops if op[0] not in ("look", "close")]
        first = next(index for index, op in enumerate(done) if "step-00000008" in op[1])
        numbers = [index for index, op in enumerate(done) if "/checkpoints" in op[1] and index >= first]
        (Path.cwd() / _NUMBERS).write_text(json.dumps(numbers))
        return code

    if rank == 0:
        return watched(partial(_train, nothing, *words))
    cli_rank.follow = partial(watched, follow)
    return _train(nothing, *words)


def _killed_on_a_disk(
    reference: Path, rank: int, number: int, words: Sequence[str], folder: Path
) -> str | None:
    ended = spawn(partial(_on_a_disk, rank, number, words), folder, timeout=60)
    if ended.timed_out or ended.code != (8 if rank else -signal.SIGKILL):
        return f"was not killed: {ended}"
    return _goes_on(reference, folder, words, 2, f"rank {rank} at operation {number}")


def _with_a_killer(words: Sequence[str], whom: str, after: float) -> int:
    """Train in this process, with another one that kills whom it should, some time after rank 1 has begun."""
    own = os.getpid()
    if os.fork() == 0:
        while not _PIDS.exists():
            time.sleep(0.01)
        time.sleep(after)
        if os.getppid() != own:  # it has ended, and the processes noted since are those of the resumed run
            os._exit(0)
        others = [] if whom == "rank 0" else [int(line) for line in _PIDS.read_text().split()]
        for pid in [*others, *([own] if whom in ("rank 0", "all") else [])]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if whom == "stopped" else signal.SIGKILL)
        os._exit(0)
    return _train(nothing, *words, "strategy.timeout=2" if whom == "stopped" else "strategy.timeout=20")


def _left(folder: Path) -> Sequence[int]:
    """The ranks that are still there ten seconds later; they are ended."""
    pids = [int(line) for line in (folder / _PIDS).read_text().split()] if (folder / _PIDS).exists() else []
    until = time.monotonic() + _LEFT
    while (living := [pid for pid in pids if _is_alive(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in living:
        os.kill(pid, signal.SIGKILL)
    return living


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _difference(one: Path, other: Path, *, exact: bool) -> str | None:
    mine, theirs = ({(row["step"], *row): row for row in _rows(run)} for run in (one, other))
    if mine.keys() != theirs.keys():
        return f"other rows: {sorted(mine.keys() ^ theirs.keys())[:3]}"
    if not exact:
        return None  # dropout masks are those of other processes
    for key, row in mine.items():
        if any(row[name] != theirs[key][name] for name in row if name != "samples_per_second"):
            return f"{row} became {theirs[key]}"
    return _other_weights(one, other)


def _other_weights(one: Path, other: Path) -> str | None:
    weights, others = (
        read_checkpoint(sorted((run / "checkpoints").iterdir())[-1]).model for run in (one, other)
    )
    wrong = [name for name, tensor in weights.items() if not torch.equal(tensor, others[name])]
    return f"other weights: {wrong[0]}" if wrong else None


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
