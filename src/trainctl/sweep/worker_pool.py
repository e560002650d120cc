"""Warm worker processes: forked from a server that has imported torch, given orders through pipes.

No torch in this process: a string names the function that a worker runs, ``package.module:function``.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import math
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from trainctl.errors import StorageError, lacks_memory, storage_error
from trainctl.paths import safe_path

# The resource tracker, which starts with the server, would warn of the semaphores of killed processes.
_QUIET = "ignore:resource_tracker:UserWarning"
_OPEN_FILES, _OPEN_FILES_A_WORKER = 32, 8
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class ProcessDiedError(Exception):
    """A process ended without an answer; the message says how."""


def start_server(preload: str = "trainctl.sweep.worker") -> None:
    """Start the process that workers are forked from, once; it imports ``preload`` in the background.

    Raises StorageError if the temporary folder cannot hold its socket.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["trainctl.sweep.server", preload])
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = f"{before},{_QUIET}" if before else _QUIET
    try:
        with safe_path():
            forkserver.ensure_running()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise storage_error(error, "starting worker processes") from error
        # The path of the socket may have 108 characters.
        raise StorageError(
            f"starting worker processes failed in {tempfile.gettempdir()}: {error}",
            "set TMPDIR to a folder with a short path",
        ) from error
    finally:
        os.environ.pop("PYTHONWARNINGS") if before is None else os.environ.update(PYTHONWARNINGS=before)


def start_process(
    target: str,
    *arguments: Any,
    answer: Connection | None = None,
    output: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Run ``target`` in a new process, in this process's folder.

    Args:
        answer: the pipe for the result of ``target``.
        output: the file for everything that it prints; None discards it.
        environment: variables besides those of this process.
    """
    # The server has the folder and the environment of the moment when it was started.
    variables = {**os.environ, **(environment or {})}
    process = multiprocessing.get_context("forkserver").Process(
        target=_run, args=(target, arguments, answer, str(output or os.devnull), str(Path.cwd()), variables)
    )
    process.start()
    return process


def _run(
    target: str,
    arguments: tuple[Any, ...],
    answer: Connection | None,
    output: str,
    folder: str,
    environment: dict[str, str],
) -> None:
    # A process group of its own: a terminal's Ctrl-C reaches the parent only, which passes it on.
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name, flags, targets in ((os.devnull, os.O_RDONLY, (0,)), (output, _APPEND, (1, 2))):
        descriptor = os.open(name, flags, 0o666)
        for each in targets:
            os.dup2(descriptor, each)
        os.close(descriptor)
    module, _, function = target.partition(":")
    code = 0
    try:
        result = getattr(importlib.import_module(module), function)(*arguments)
        if answer is not None:
            answer.send(result)
    except BaseException as error:
        traceback.print_exc()
        code = errno.ENOMEM if lacks_memory(error) else 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Exit handlers of libraries belong to the server that they were imported in.
    os._exit(code)


def ask(
    target: str,
    *arguments: Any,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """The result of ``target`` in a process of its own.

    Raises ProcessDiedError if the process ends without an answer, or gives none within ``timeout`` seconds.
    """
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = start_process(target, *arguments, answer=sending, environment=environment)
    sending.close()
    try:
        if not receiving.poll(timeout):
            raise ProcessDiedError(f"gave no answer within {timeout:.0f} s")
        return receiving.recv()
    except EOFError:
        process.join()
        raise ProcessDiedError(_how_it_ended(process)) from None
    finally:
        receiving.close()
        process.kill()
        process.join()


def _how_it_ended(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code == errno.ENOMEM:
        return "lacked memory to load torch (see ulimit -v)"
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by signal {-code}{' (out of memory?)' if code == -signal.SIGKILL else ''}"


def _allow_open_files(workers: int) -> None:
    """Raise StorageError where this process may not open the files that so many workers take: starting them
    would fail in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _OPEN_FILES + _OPEN_FILES_A_WORKER * workers
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise StorageError(
            f"{workers} worker processes may need {needed} open files, {hard} are allowed",
            "allow more: ulimit -n 1024; or start fewer workers",
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Worker:
    """A worker process.

    Attributes:
        order: its last order; None while it is idle.
        child: a process that was started for it; its exit code is sent to the worker.
        heard: the time of its last message.
    """

    def __init__(self, pipe: Any, process: BaseProcess) -> None:
        self.pipe, self.process = pipe, process
        self.order: Any = None
        self.child: BaseProcess | None = None
        self.heard = time.monotonic()

    def ends(self) -> list[Any]:
        """The objects for ``multiprocessing.connection.wait``."""
        return [self.pipe, self.process.sentinel, *([self.child.sentinel] if self.child else [])]

    def send(self, message: Any) -> None:
        """Send a message; :meth:`WorkerPool.listen` notices a dead worker."""
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def kill(self) -> None:
        """End the worker and its child at once."""
        for process in (self.child, self.process):
            if process is not None:
                process.kill()
                process.join()


class WorkerPool(ABC):
    """Up to ``count`` worker processes, each started when there is work for it.

    A worker reads orders from its pipe until one is None, and may send any number of messages;
    :meth:`received` decides which of them completes the order. A busy worker that is silent for ``too_long``
    seconds counts as hung.
    """

    def __init__(self, count: int, too_long: float = math.inf) -> None:
        _allow_open_files(count)
        self.count, self.too_long = count, too_long
        self.workers: dict[int, Worker] = {}

    @abstractmethod
    def start(self, number: int, pipe: Connection) -> BaseProcess:
        """Start worker ``number`` at the other end of ``pipe``."""

    @abstractmethod
    def next_order(self, number: int) -> Any:
        """The next order for worker ``number``; None if there is none."""

    @abstractmethod
    def received(self, worker: Worker, message: Any) -> None:
        """Handle a message; set ``worker.order`` to None when its order is complete."""

    @abstractmethod
    def died(self, worker: Worker, reason: str) -> None:
        """Handle the death of a worker that had an order."""

    @property
    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.order is not None]

    def assign(self) -> None:
        """Give an order to every idle worker, then start new workers while there are orders left."""
        for number in sorted(range(self.count), key=lambda each: each not in self.workers):
            worker = self.workers.get(number)
            if worker is not None and worker.order is not None:
                continue
            if (order := self.next_order(number)) is None:
                continue
            if worker is None:
                ours, theirs = multiprocessing.Pipe()
                worker = self.workers[number] = Worker(ours, self.start(number, theirs))
                theirs.close()
            worker.order, worker.heard = order, time.monotonic()
            worker.send(order)

    def listen(self, seconds: float) -> None:
        """Wait up to ``seconds`` for messages and deaths, and handle them."""
        ends = [end for worker in self.workers.values() for end in worker.ends()]
        ready = connection.wait(ends, timeout=seconds)
        for number, worker in list(self.workers.items()):
            if worker.child is not None and worker.child.sentinel in ready:
                worker.child.join()
                worker.send(worker.child.exitcode)
                worker.child, worker.heard = None, time.monotonic()
            if worker.pipe in ready:
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    self._remove(number)
                else:
                    worker.heard = time.monotonic()
                    self.received(worker, message)
            elif worker.process.sentinel in ready:
                self._remove(number)
            elif worker.order is not None and time.monotonic() - worker.heard > self.too_long:
                worker.kill()
                self._remove(number, f"hung: sent nothing for {self.too_long:.0f} s")

    def _remove(self, number: int, reason: str | None = None) -> None:
        worker = self.workers.pop(number)
        worker.process.join()
        worker.kill()
        worker.pipe.close()
        if worker.order is not None:
            self.died(worker, reason or f"its process {_how_it_ended(worker.process)}")

    def close(self, seconds: float) -> None:
        """Let idle workers end within ``seconds``; kill the others."""
        idle = [worker for worker in self.workers.values() if worker.order is None]
        for worker in idle:
            worker.send(None)
        for worker in idle:
            worker.process.join(seconds)
        for worker in self.workers.values():
            worker.kill()
            worker.pipe.close()
        self.workers.clear()
