"""One worker of a sweep on a node of the cluster: the end of the actor. No torch in its process.

The jobs train in a warm worker process beside it, the same as on the sweep's own machine: it takes signals,
and may die alone. Where the node does not see the sweep's directory, a folder of its own stands for it, and
what came of a job is sent back.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import trainctl
from trainctl.registry import plugins, trust
from trainctl.sweep.ledger import Ledger, Row
from trainctl.sweep.ray.transfer import Incoming, Piece, pieces
from trainctl.sweep.worker_pool import Worker, WorkerPool, start_process, start_server
from trainctl.training.request import Draw

_REPORT_EVERY = 1.0
_AT_A_TIME = 4
"""Pieces of files in a report."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know, wherever it is.

    Attributes:
        directory: the sweep's, on the machine that runs the sweep.
        token: a file in it that only this sweep has made.
        folder: where the sweep was started.
        own: the sweep may import its plugins and open the connections that its configs name.
        threads, command, draw, trust_plugins: as :func:`trainctl.sweep.worker.work` takes them.
        log: the name of the file for what it prints.
    """

    directory: str
    token: str
    folder: str
    own: bool
    threads: int
    command: str
    draw: Draw
    trust_plugins: bool
    log: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Node:
    """The node of a worker; ``shares`` says whether it sees the sweep's directory."""

    name: str
    version: str
    shares: bool


@dataclass(frozen=True)
class Parcel:
    """An order for a node that does not see the sweep's directory: the content of its files.

    Attributes:
        rows: of the order's jobs, and of one job for each data set that was read.
        runs: the files of earlier attempts, by job.
    """

    sweep: bytes
    rows: Mapping[int, Row]
    runs: Mapping[int, Sequence[Piece]]


@dataclass(frozen=True)
class Report:
    """How an order is getting on; ``rows``, ``files`` and ``log`` come from a node with a folder of its own.

    Attributes:
        files: pieces of run directories, each with its job.
        anew: jobs whose earlier attempt was set aside.
        done: the order is complete, and so are its files.
        died: how the process of the worker ended, if it did.
    """

    rows: Mapping[int, Row] = field(default_factory=dict)
    files: Sequence[tuple[int, Piece]] = ()
    anew: frozenset[int] = frozenset()
    log: bytes = b""
    done: bool = False
    died: str | None = None


class Host(WorkerPool):
    """The actor: holds one worker process. Its methods are called from two threads."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(1)
        self._setup, self._directory = setup, Path(setup.directory)
        self._shares = (self._directory / "ledger" / setup.token).exists()
        self._temporary = Path(tempfile.mkdtemp(prefix="trainctl-sweep-"))
        if not self._shares:
            self._directory = self._temporary / "sweep"
            (self._directory / "ledger").mkdir(parents=True)
        self._ledger: Ledger | None = None
        self._order: list[int] | None = None
        self._lasting: list[int] = []
        self._died: str | None = None
        self._files: Iterator[tuple[int, Piece]] | None = None
        self._logged = 0
        self._telling = threading.Lock()
        if Path(setup.folder).is_dir():
            os.chdir(setup.folder)
        os.environ.update(setup.environment)
        # What the sweep's own user may do is known on the machine that runs it; here only for this actor.
        os.environ["XDG_STATE_HOME"] = str(self._temporary)

    def describe(self) -> Node:
        """Called when the actor has its place on a node."""
        start_server()
        return Node(platform.node(), trainctl.__version__, self._shares)

    def run_order(self, order: list[int], parcel: Parcel | None, jobs: bytes | None) -> Report:
        """Begin an order; ``parcel`` for a node that does not share the sweep's directory, ``jobs`` the first
        time, the content of its ``jobs.jsonl``. Raises UnsafeInputError for plugins that are other ones here.
        """
        if parcel is not None:
            self._unpack(parcel, jobs)
        ledger = self._ledger = self._ledger or Ledger(self._directory)
        stored = ledger.values.get("plugins") or []
        if not self._setup.trust_plugins:
            plugins.refuse_changed([entry["name"] for entry in stored], stored)
        if self._setup.own and not trust.is_own(self._directory):
            trust.remember(self._directory, stored, "*")
        with self._telling:
            self._order, self._lasting, self._died, self._files = order, order, None, None
            self.assign()
        return self.report()

    def report(self) -> Report:
        """Wait a moment for the end of the order, and say how it is getting on."""
        self.listen(_REPORT_EVERY)
        if self._shares or (ledger := self._ledger) is None:
            return Report(done=not self.busy, died=self._died)
        jobs = ledger.jobs()
        rows = {number: ledger.stored(jobs[number]) for number in self._lasting}
        if self.busy:
            return Report(rows)
        if self._files is None:
            self._files = self._results()
        if files := list(islice(self._files, _AT_A_TIME)):
            return Report(files=files)
        anew = frozenset(n for n in self._lasting if (self._directory / f"{n}.attempt-1").exists())
        for path in self._directory.iterdir():
            if path.is_dir() and path.name != "ledger":
                shutil.rmtree(path, ignore_errors=True)
        return Report(rows, anew=anew, log=self._printed(), done=True, died=self._died)

    def tell(self, number: int) -> None:
        """Send a signal to the worker, if it has an order."""
        with self._telling:
            for worker in self.busy:
                if worker.process.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.process.pid, number)

    def end(self) -> None:
        """End the worker, and remove the folder that stood for the sweep's."""
        self.close(5.0)
        shutil.rmtree(self._temporary, ignore_errors=True)

    # ------------------------------------------------------------------- the worker process

    def start(self, number: int, pipe: Connection) -> BaseProcess:
        setup = self._setup
        return start_process(
            "trainctl.sweep.worker:work",
            *(pipe, str(self._directory), setup.threads, setup.command, setup.draw, setup.trust_plugins, 1),
            output=self._directory / setup.log,
        )

    def next_order(self, number: int) -> list[int] | None:
        order, self._order = self._order, None
        return order

    def received(self, worker: Worker, message: Any) -> None:
        worker.order = None

    def died(self, worker: Worker, reason: str) -> None:
        self._died = reason

    # ------------------------------------------------------------------- a folder of its own

    def _unpack(self, parcel: Parcel, content: bytes | None) -> None:
        if content is not None:
            (self._directory / "sweep.json").write_bytes(parcel.sweep)
            (self._directory / "jobs.jsonl").write_bytes(content)
        ledger = self._ledger = self._ledger or Ledger(self._directory)
        jobs = ledger.jobs()
        for number, row in parcel.rows.items():
            ledger.beat(jobs[number], row)
        for number, sent in parcel.runs.items():
            incoming = Incoming(self._directory / str(number))
            for piece in sent:
                incoming.add(piece)
            incoming.finish()

    def _results(self) -> Iterator[tuple[int, Piece]]:
        for number in self._lasting:
            for piece in pieces(self._directory / str(number)):
                yield number, piece

    def _printed(self) -> bytes:
        with contextlib.suppress(OSError), (self._directory / self._setup.log).open("rb") as file:
            file.seek(self._logged)
            content = file.read(1 << 20)
            self._logged = file.tell() if len(content) < 1 << 20 else os.fstat(file.fileno()).st_size
            return content
        return b""
