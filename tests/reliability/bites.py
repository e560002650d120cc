"""The gate itself, tried: with a safeguard taken away, some trial must be missed."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch

from tests.reliability import crashes, damage, power
from tests.reliability.children import Trial
from tests.reliability.runs import SHORT, Course
from trainctl import checkpoint, files, snapshot
from trainctl.state import State

Patch = Callable[[], None]


def every_safeguard(intact: Path) -> list[Trial]:
    """Each safeguard taken away in turn; a trial is missed where nothing noticed."""
    lost = power.after_every_operation

    def killed(first: Callable[[Course], int]) -> Callable[[Course, Patch], list[Trial]]:
        return lambda course, patch: crashes.at_every_operation(course, patch, first(course))

    second = killed(lambda course: course.saved[1][0])
    return [
        Trial("the sync of files", partial(_noticed, _no_sync_of_files, lost)),
        Trial("the sync of folders", partial(_noticed, _no_sync_of_folders, lost)),
        Trial("the sync of the metrics", partial(_noticed, _no_sync_of_metrics, lost)),
        Trial(
            "the rename of checkpoints",
            partial(_noticed, _checkpoints_in_place, killed(lambda course: course.saved[1][0] - 18)),
        ),
        Trial("the rename of files", partial(_noticed, _files_in_place, killed(lambda course: 6))),
        Trial("the random states", partial(_noticed, _no_random_states, second)),
        Trial("the cursor", partial(_noticed, _no_cursor, second)),
        Trial("the checksums", partial(_flips_noticed, intact)),
    ]


def _noticed(patch: Patch, trials: Callable[..., list[Trial]], folder: Path) -> str | None:
    """The trials of a program without the safeguard, until one is missed."""
    course = Course(SHORT)
    if wrong := course.measure(folder / "reference", patch):
        return f"it does not even run: {wrong}"
    for number, trial in enumerate(trials(course, patch)):
        place = folder / str(number)
        place.mkdir()
        if trial.run(place) is not None:
            return None
        shutil.rmtree(place)
    return "nothing was missed"


def _flips_noticed(intact: Path, folder: Path) -> str | None:
    verified = checkpoint._verified
    checkpoint._verified = lambda path: {
        name: (path / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.TRAINING, checkpoint.STATE)
    }
    try:
        for number, trial in enumerate(damage.every_byte(intact)):
            place = folder / str(number)
            place.mkdir()
            if trial.run(place) is not None:
                return None
    finally:
        checkpoint._verified = verified
    return "nothing was missed"


# ------------------------------------------------------------------- what is taken away


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.write(descriptor, content)
    os.close(descriptor)


def _no_sync_of_files() -> None:
    files.write = _write


def _no_sync_of_folders() -> None:
    files.sync_folder = lambda folder: None


def _no_sync_of_metrics() -> None:
    files.Log.sync = lambda log: None  # type: ignore[method-assign]


def _checkpoints_in_place() -> None:
    def rename(source: Path, target: Path) -> None:
        target.mkdir()
        for path in source.iterdir():
            files.write(target / path.name, path.read_bytes())
        shutil.rmtree(source)

    files.rename = rename


def _files_in_place() -> None:
    files.replace = files.write


def _no_random_states() -> None:
    always = {
        "python": (3, torch.tensor(random.Random(0).getstate()[1]), None),
        "numpy": ("MT19937", torch.from_numpy(numpy.arange(624)), 0, 0, 0.0),
        "torch": torch.Generator().manual_seed(0).get_state(),
    }
    snapshot.random_states = lambda device: dict(always)


def _no_cursor() -> None:
    def values(state: State) -> dict[str, Any]:
        return {**asdict(state), "position": 0}

    State.values = values  # type: ignore[method-assign]
