"""The gate itself, tried: with a safeguard taken away, some trial must be missed."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch

from tests.reliability import crashes, damage, power
from tests.reliability.children import Trial, none_missed
from tests.reliability.runs import SHORT, Course, Patch
from trainctl.checkpoint import format as checkpoint_format
from trainctl.checkpoint import snapshot
from trainctl.runs import files
from trainctl.training.state import State

Made = Callable[[Course, Patch, Path], list[Trial]]
"""Makes trials of a program with a patch; the path is a checkpoint that is whole."""


def without(safeguard: str, intact: Path) -> list[Trial]:
    """The one trial of a safeguard: it is missed where nothing noticed. ``intact`` is a checkpoint."""
    return [Trial(safeguard, partial(_noticed, *SAFEGUARDS[safeguard], intact))]


def _noticed(patch: Patch, trials: Made, intact: Path, folder: Path) -> str | None:
    """The trials of a program without the safeguard, until one is missed."""
    course = Course(SHORT)
    if wrong := course.measure(folder / "reference", patch):
        return f"it does not even run: {wrong}"
    return none_missed(trials(course, patch, intact), folder)


# ------------------------------------------------------------------- what is taken away


def _write(path: Path, content: bytes, *, synced: bool = True) -> None:
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
    snapshot.RandomStates.state_dict = lambda states: dict(always)  # type: ignore[method-assign]


def _no_cursor() -> None:
    def values(state: State) -> dict[str, Any]:
        return {**asdict(state), "position": 0}

    State.state_dict = values  # type: ignore[method-assign]


def _no_checksums() -> None:
    class Anything(dict[str, Any]):
        """Equal to every entry of a manifest."""

        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

    entry = checkpoint_format._entry
    checkpoint_format._entry = lambda size, digest: Anything(entry(size, digest))


# ------------------------------------------------------------------- the trials that must notice


def _lost(course: Course, patch: Patch, intact: Path) -> list[Trial]:
    return power.after_every_operation(course, patch)


def _killed_from(first: Callable[[Course], int]) -> Made:
    return lambda course, patch, intact: crashes.at_every_operation(course, patch, first(course))


def _flipped(course: Course, patch: Patch, intact: Path) -> list[Trial]:
    return damage.every_byte(intact, patch)


_after_the_second_save = _killed_from(lambda course: course.saved[1][0])

SAFEGUARDS: Mapping[str, tuple[Patch, Made]] = {
    "the sync of files": (_no_sync_of_files, _lost),
    "the sync of folders": (_no_sync_of_folders, _lost),
    "the sync of the metrics": (_no_sync_of_metrics, _lost),
    # From the middle of the second save on, and from the first replacing of run.json on.
    "the rename of checkpoints": (
        _checkpoints_in_place,
        _killed_from(lambda course: course.saved[1][0] - 18),
    ),
    "the rename of files": (_files_in_place, _killed_from(lambda course: 6)),
    "the random states": (_no_random_states, _after_the_second_save),
    "the cursor": (_no_cursor, _after_the_second_save),
    "the checksums": (_no_checksums, _flipped),
}
