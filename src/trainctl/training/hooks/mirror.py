"""Copies the run to a bucket beside the training: ``checkpoint.mirror``."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainctl.checkpoint.mirrored import TRIES, Mirrored, retried
from trainctl.checkpoint.retention import list_checkpoints
from trainctl.checkpoint.store import LINKS, LocalStore
from trainctl.errors import CheckpointError, DirectoryTakenError
from trainctl.paths import short_path
from trainctl.training.run import Hook, Run

log = logging.getLogger("trainctl")
_PATIENCE = 60.0


class Mirror(Hook):
    """A thread brings the bucket to what lies in the run directory: the same checkpoints, the newest first.

    It is told of checkpoints that are saved and read back; hard links keep those to be copied while the run
    deletes them. What fails is tried :data:`TRIES` times, then again with the next checkpoint. The training
    never waits for it; the end of the run does, as long as something arrives within a minute.

    Args:
        url: of this run's place.
        identity: of this run there; what finds another one stops.
        is_new: the run has not written there before.
        say: shows a line to people.
        note: writes the state down, in ``run.json``.
    """

    name = "mirror"
    claims = False
    """Whether the place is to be taken from whatever wrote there."""

    def __init__(
        self,
        directory: Path,
        url: str,
        identity: str,
        *,
        is_new: bool,
        say: Callable[[str], None],
        note: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.directory, self.url, self.identity = directory, url, identity
        self._say, self._note, self._is_new = say, note, is_new
        self._place = Mirrored(url)
        self._folder = directory / "checkpoints"
        self._links = LocalStore(self._folder / LINKS)
        self._changed = threading.Condition()
        self._wanted: list[str] = []
        self._asked = self._done = 0
        self._copying, self._there = "", set[str]()
        self._closing = self._ended = self._refused = False
        self._error, self._said, self._noted = "", "", dict[str, Any]()
        self._moved = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    # ------------------------------------------------------------------- in the training's threads

    def start(self, run: Run) -> None:
        shutil.rmtree(self._links.folder, ignore_errors=True)
        self.offer()
        self._thread.start()
        self._tell()

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        self._tell()

    def save(self, run: Run) -> None:
        self._tell()

    def offer(self) -> None:
        """Have what lies in the run directory now copied; it may be deleted as soon as this returns."""
        with self._changed:
            self._wanted = [path.name for path in list_checkpoints(self._folder)]
            for name in self._wanted:
                if name not in self._there:
                    _link(self._folder / name, self._links.folder / name)
            for path in self._links.folder.glob("step-*"):
                if path.name not in self._wanted and path.name != self._copying:
                    shutil.rmtree(path, ignore_errors=True)
            self._asked += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Copy what is left, and say how it ended. Safe to call twice."""
        if self._thread.ident is None or self._closing:
            return
        self.offer()
        self._moved = began = time.monotonic()
        with self._changed:
            self._closing, told = True, False
            self._changed.notify_all()
            while self._thread.is_alive() and time.monotonic() - self._moved < _PATIENCE:
                self._changed.wait(0.2)
                if not told and time.monotonic() - began > 2:
                    told = True
                    self._say(f"waiting until the newest checkpoint is in {self.url}")
        self._ended, self._said = True, ""
        if self._thread.is_alive():
            self._error = self._error or f"nothing arrived for {_PATIENCE:g} s"
        self._tell()
        shutil.rmtree(self._links.folder, ignore_errors=True)

    def _tell(self) -> None:
        """Say and write down what has changed."""
        with self._changed:
            error, lacks = self._error, [name for name in self._wanted if name not in self._there]
            newest = max(self._there, default=None)
        if error != self._said:
            at = "; the run goes on, and tries again" if not (self._refused or self._ended) else ""
            whole = f"; it lacks {', '.join(lacks)}, which {short_path(self.directory)} has" if lacks else ""
            self._say(
                f"mirror: {error}{at}{whole}" if error else f"mirror: {self.url} has all checkpoints again"
            )
            self._said = error
        values = {
            "url": self.url,
            "id": self.identity,
            "newest": newest,
            "lacks": lacks,
            "error": error or None,
        }
        if values != self._noted:
            self._noted = values
            self._note(values)

    # ------------------------------------------------------------------- in the thread

    def _work(self) -> None:
        while not self._refused:
            with self._changed:
                while self._asked == self._done and not self._closing:
                    self._changed.wait()
                if self._asked == self._done:
                    break
                asked = self._asked
            try:
                retried(self._bring, TRIES, self._pause)
                error = ""
            except DirectoryTakenError as taken:
                error, self._refused = str(taken), True
            except (OSError, CheckpointError) as failed:
                error = f"{self.url}: {failed}" if self.url not in str(failed) else str(failed)
            except Exception as unexpected:  # the training goes on, whatever a service's library does
                log.exception("mirror")
                error = f"{self.url}: {type(unexpected).__name__}: {unexpected}"
            if error:
                log.warning("mirror: %s", error)
            with self._changed:
                self._error, self._done = error, asked
                self._changed.notify_all()

    def _bring(self) -> None:
        """Bring the bucket to what is wanted now. Raises OSError, DirectoryTakenError."""
        self.check_owner()
        with self._changed:
            wanted = list(self._wanted)
        # First, so that metrics.jsonl has what comes before any checkpoint that is there.
        whole = self._there.issuperset(wanted)
        self._place.upload_files(self.directory, self._watched, whole=whole)
        for name in reversed(wanted):
            with self._changed:
                left = name in self._there or not (self._links.folder / name).is_dir()
                self._copying = "" if left else name
            if left:
                continue
            self._place.upload(self._links, name, self._watched)
            with self._changed:
                self._there.add(name)
                self._copying = ""
                shutil.rmtree(self._links.folder / name, ignore_errors=True)
            log.info("mirror: %s/%s", self._place.checkpoints, name)
        if not whole and self._closing:
            self._place.upload_files(self.directory, self._watched, whole=True)
        self.check_owner()
        with self._changed:
            kept = {*self._wanted, *wanted}
        if self._there.issuperset(self._wanted):
            for name in set(self._place.checkpoints.list(committed=False)) - kept:
                self._place.checkpoints.delete(name)
                self._there.discard(name)

    def check_owner(self) -> None:
        """Raise DirectoryTakenError where another run has the place; one that is nobody's is taken.

        Raises OSError.
        """
        owner = None if self.claims else self._place.owner()
        if owner != self.identity:
            if owner or (self._is_new and not self.claims and self._place.files.list()):
                raise _taken(self.url)
            self._place.claim(self.identity)
        self.claims = self._is_new = False

    def _watched(self, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            self._moved = time.monotonic()
            yield piece

    def _pause(self, seconds: float) -> None:
        self._moved = time.monotonic()
        time.sleep(seconds)


def _taken(url: str) -> DirectoryTakenError:
    return DirectoryTakenError(
        f"{url} belongs to another run, or to this one carried on elsewhere: nothing more is copied there",
        f"choose another place for checkpoint.mirror, or carry that run on: trainctl resume {url}",
    )


def _link(source: Path, target: Path) -> None:
    """A second name for each file of a checkpoint; copies, where the disk has no hard links."""
    if target.is_dir():
        return
    target.parent.mkdir(exist_ok=True)
    part = target.with_name(f".{target.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for path in source.iterdir():
        try:
            os.link(path, part / path.name)
        except OSError:
            shutil.copy2(path, part / path.name)
    part.rename(target)


def make_mirror(
    url: str,
    directory: Path,
    recorded: Mapping[str, Any] | None,
    say: Callable[[str], None],
    note: Callable[[Mapping[str, Any]], None],
) -> Mirror:
    """The mirror of a run.

    Args:
        url: ``checkpoint.mirror``; each job of a sweep has a folder of its own there.
        recorded: ``mirror`` of the ``run.json`` of a run that is resumed; without an ``id`` it takes the
            place from whatever wrote there before.

    Raises ConfigError for a URL that cannot be opened, DirectoryTakenError (exit 7) for the place of another
    run.
    """
    in_sweep = (directory.parent / "sweep.json").is_file()
    url = url.rstrip("/") + (f"/{directory.name}" if in_sweep else "")
    known = recorded if recorded is not None and recorded.get("url") == url else None
    identity = str((known or {}).get("id") or secrets.token_hex(8))
    mirror = Mirror(directory, url, identity, is_new=known is None, say=say, note=note)
    mirror.claims = known is not None and known.get("id") is None
    try:
        mirror.check_owner()
    except OSError as error:
        say(f"mirror: {url} does not answer ({error}); the run begins, and tries again")
    return mirror
