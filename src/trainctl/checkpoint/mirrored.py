"""A run's copy on a bucket: how it is laid out, and how it is fetched.

Below the URL are ``checkpoints/step-00000860/`` with the files of a checkpoint, ``files/00000003/`` with
those beside the checkpoints, as they were at some moment, and ``owner.json``: what run writes there.
Each set has a manifest of sizes and SHA-256, written last; what does not match it is never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from trainctl.checkpoint.format import Watch, copy_set, put_files, verify_checkpoint
from trainctl.checkpoint.remote import RemoteStore
from trainctl.checkpoint.retention import list_checkpoints
from trainctl.checkpoint.store import MANIFEST, LocalStore
from trainctl.errors import CheckpointError, StorageError
from trainctl.paths import cache_folder
from trainctl.runs import files, strict_json
from trainctl.runs.bucket import is_url
from trainctl.runs.directory import claim, find, lock
from trainctl.runs.record import UNFINISHED, read_record

log = logging.getLogger("trainctl")
OWNER = "owner.json"
RUN_FILES = (
    "config.yaml", "overrides.yaml", "config.history.yaml", "run.json", "metrics.jsonl", "train.log",
    "git.diff", "curves.svg", "confusion.svg",
)  # fmt: skip
TRIES = 5
_LARGEST_OWNER, _PIECE, _FETCHING = 1 << 16, 1 << 24, 600.0
T = TypeVar("T")


class Mirrored:
    """The copy of one run below ``url``."""

    def __init__(self, url: str) -> None:
        self.url, self.store = url.rstrip("/"), RemoteStore(url)
        self.checkpoints, self.files = self.store.within("checkpoints"), self.store.within("files")

    def owner(self) -> str | None:
        """The identity of what writes here; None where nothing has. Raises OSError."""
        try:
            content = strict_json.parse(self.store.get("", OWNER, _LARGEST_OWNER))
        except FileNotFoundError:
            return None
        except (ValueError, CheckpointError):
            return ""  # half written: nobody's
        return str(content.get("id")) if isinstance(content, dict) else ""

    def claim(self, identity: str) -> None:
        """Be the owner from now on. Raises OSError."""
        content = json.dumps({"version": 1, "id": identity}).encode()
        self.store.put("", OWNER, [memoryview(content)])

    def upload(self, local: LocalStore, name: str, watch: Watch = iter) -> None:
        """Copy a checkpoint here, unless it is here. Raises OSError, CheckpointError for a damaged one."""
        manifest = local.get(name, MANIFEST, 1 << 20)
        with contextlib.suppress(FileNotFoundError, CheckpointError):
            if self.checkpoints.get(name, MANIFEST, 1 << 20) == manifest:
                return
        self.checkpoints.delete(name)
        copy_set(local, self.checkpoints, name, watch=watch)

    def upload_files(self, directory: Path, watch: Watch = iter, *, whole: bool) -> None:
        """Copy the files beside the checkpoints here, then delete older copies of them. Raises OSError.

        Until the checkpoints are ``whole`` there, ``run.json`` is that of a run that goes on: it may have
        ended here with one that could still get lost.
        """
        before = self.files.list(committed=False)
        number = 1 + max((int(name) for name in before if name.isdecimal()), default=0)
        there = {name: path for name in RUN_FILES if (path := directory / name).is_file()}
        contents = {name: _now(path) for name, path in there.items()}
        if not whole:
            record = read_record(directory) | UNFINISHED
            contents["run.json"] = iter([memoryview(json.dumps(record, indent=2).encode())])
        put_files(self.files, f"{number:08d}", {name: watch(pieces) for name, pieces in contents.items()})
        for name in before:
            self.files.delete(name)


def _now(path: Path) -> Iterator[memoryview]:
    """The content of a file that may grow meanwhile, as long as it is now."""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            yield memoryview(piece)


def retried(action: Callable[[], T], tries: int = TRIES, wait: Callable[[float], Any] = time.sleep) -> T:
    """The result of ``action``; what fails is tried again, after 1, 2, 4 … seconds. Raises the last OSError.

    A file that is not there is no failure of the service.
    """
    for attempt in range(1, tries):
        try:
            return action()
        except FileNotFoundError:
            raise
        except OSError as error:
            log.warning("try %d of %d: %s", attempt, tries, error)
            wait(2.0 ** (attempt - 1))
    return action()


def located(run: str | Path, *, checkpoints: bool = True) -> tuple[Path, list[str]]:
    """The directory of RUN as ``trainctl.runs.directory.find`` says, or a copy of what is at a URL; notices.

    The copy is kept in the user's cache folder, and brought up to date, ``checkpoints`` too where they are
    wanted.
    """
    if not is_url(run):
        return find(run), []
    url = str(run).rstrip("/")
    folder = cache_folder() / "mirrors" / hashlib.sha256(url.encode()).hexdigest()[:16]
    files.make_folder(folder)
    with lock(folder, wait=_FETCHING):
        return folder, fetch(url, folder, checkpoints=checkpoints)


def taken_over(url: str) -> tuple[Path, list[str]]:
    """A new run directory below ``outputs`` with what is at ``url``, to be carried on there; notices.

    Whatever else writes to the URL is refused there from the moment that this run begins.
    """
    url = url.rstrip("/")
    directory = claim(Path("outputs") / time.strftime("%Y-%m-%d") / time.strftime("%H-%M-%S"), named=False)
    try:
        said = fetch(url, directory)
        # None: a new identity is chosen when the run begins.
        record = {**read_record(directory), "mirror": {"url": url, "id": None}}
        files.replace(directory / "run.json", (json.dumps(record, indent=2) + "\n").encode())
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return directory, said


def fetch(url: str, directory: Path, *, checkpoints: bool = True) -> list[str]:
    """Bring ``directory`` to what is at ``url``; what has arrived is verified before it counts.

    Returns a notice for each damaged set, which is left out. Raises CheckpointError (exit 4) where nothing
    usable is there, StorageError (exit 5) where the service fails.
    """
    try:
        place = Mirrored(url)
        wanted = (_fetch_files, _fetch_checkpoints)[: 1 + checkpoints]
        try:
            damaged = [text for bring in wanted for text in bring(place, directory)]
        except FileNotFoundError:  # removed by the run, which has saved newer ones
            damaged = [text for bring in wanted for text in bring(place, directory)]
    except OSError as error:
        raise StorageError(f"{url} cannot be read: {error}", "try again, or check the credentials") from error
    return [f"damaged, not used: {reason}" for reason in damaged]


def _fetch_files(place: Mirrored, directory: Path) -> list[str]:
    names, damaged = retried(place.files.list), list[str]()
    if not names:
        raise CheckpointError(
            f"{place.url}: no run was mirrored there",
            "give the URL of checkpoint.mirror; of a job, with its number",
        )
    arrived = LocalStore(directory / ".arrived")
    try:
        for name in reversed(names):
            try:
                _arrive(place.files, arrived, name, RUN_FILES)
            except CheckpointError as error:
                damaged.append(str(error))
                continue
            for path in (arrived.folder / name).iterdir():
                if path.name != MANIFEST:
                    path.replace(directory / path.name)
            files.sync_folder(directory)
            return damaged
    finally:
        shutil.rmtree(arrived.folder, ignore_errors=True)
    raise CheckpointError(f"{place.url} has no usable files: {'; '.join(damaged)}")


def _arrive(source: RemoteStore, local: LocalStore, name: str, known: Collection[str] | None = None) -> None:
    """Copy a set; one that is damaged on its way comes a second time."""
    try:
        retried(lambda: copy_set(source, local, name, known))
    except CheckpointError:
        copy_set(source, local, name, known)


def _fetch_checkpoints(place: Mirrored, directory: Path) -> list[str]:
    local = LocalStore(directory / "checkpoints")
    files.make_folder(local.folder)
    names, damaged, usable = retried(place.checkpoints.list), list[str](), 0
    for path in list_checkpoints(local.folder, committed=False):
        if path.name not in names:
            local.delete(path.name)
    for name in names:
        try:
            if not _is_here(place, local, name):
                _arrive(place.checkpoints, local, name)
            usable += 1
        except CheckpointError as error:
            damaged.append(str(error))
    if not usable:
        reasons = f": {'; '.join(damaged)}" if damaged else ""
        raise CheckpointError(f"{place.url} has no usable checkpoint{reasons}", "nothing there was changed")
    return damaged


def _is_here(place: Mirrored, local: LocalStore, name: str) -> bool:
    """Whether the same checkpoint lies in ``local``, whole; another or a damaged one is removed."""
    if name not in local.list(committed=False):
        return False
    with contextlib.suppress(OSError, CheckpointError):
        theirs = retried(lambda: place.checkpoints.get(name, MANIFEST, 1 << 20))
        if theirs == local.get(name, MANIFEST, 1 << 20):
            verify_checkpoint(local.folder / name)
            return True
    local.delete(name)
    return False
