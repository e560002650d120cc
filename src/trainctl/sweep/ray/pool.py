"""The jobs of a sweep in actors on a Ray cluster. The ledger stays with the sweep's own process.

An actor holds one worker (:mod:`trainctl.sweep.ray.host`) and takes one order after another. Where its node
sees the sweep's directory, the worker writes there, as on this machine; where it does not, rows and run
directories are sent here. The order of a node that dies is given to another one.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import trainctl
from trainctl.config.settings import Config
from trainctl.errors import LauncherError, UnsafeInputError
from trainctl.registry import trust
from trainctl.runs.directory import set_aside
from trainctl.runs.secrets import held
from trainctl.sweep.ledger import Job, Ledger, Row
from trainctl.sweep.pool import SweepPool
from trainctl.sweep.ray.host import Host, Node, Parcel, Report, Setup
from trainctl.sweep.ray.settings import Needs, RaySettings, connect, needs_of, nodes
from trainctl.sweep.ray.transfer import Incoming, pieces
from trainctl.training.request import Draw

_LOOK_EVERY = 5.0
_PATIENCE = 30.0
"""Seconds without a place on the cluster, after which that is said."""
_LOOK_AHEAD = 1000
_MOST_LOSSES = 3
"""A job that has lost so many nodes has failed; so has a sweep whose actors die so often as they start."""


@dataclass(eq=False)
class _Actor:
    """An actor of the pool.

    Attributes:
        answer: the reference of what it was asked for; None while it has nothing to do.
        node: None until it has a place on the cluster.
        has_jobs: it was sent the sweep's jobs.
        incoming: run directories that it is sending, by job.
    """

    handle: Any
    needs: Needs
    answer: Any
    log: str
    node: Node | None = None
    order: list[int] | None = None
    has_jobs: bool = False
    incoming: dict[int, Incoming] = field(default_factory=dict)


class RayPool(SweepPool):
    """Runs jobs on the cluster of ``settings``.

    Args:
        configs: of each job, by number; what a job takes of the cluster is read from it.
        command, draw, trust_plugins: as for a pool on this machine.
        notice: shows a line.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: RaySettings,
        configs: Mapping[int, Config],
        command: str,
        draw: Draw,
        *,
        trust_plugins: bool,
        notice: Callable[[str], None],
    ) -> None:
        sweep = next(iter(configs.values())).sweep
        super().__init__(ledger, fail_fast=sweep.fail_fast)
        self._ray = connect(settings.address)
        self._most, self._notice = sweep.jobs, notice
        self._nodes = nodes(self._ray)
        self._has_gpus = any(each.get("GPU") for each in self._nodes)
        self._looked = self._placed = time.monotonic()
        self._needs = {
            number: needs_of(config, settings, has_gpus=self._has_gpus) for number, config in configs.items()
        }
        self._held: set[int] = set()
        self._actors: list[_Actor] = []
        self._started, self._losses, self._lost_at_start = 0, Counter[int](), 0
        self._jobs_sent: Any = None
        self._data: dict[str, tuple[int, Row]] = {}
        self._token = f".shared-{secrets.token_hex(8)}"
        (ledger.directory / "ledger" / self._token).touch()
        self._setup = Setup(
            directory=str(ledger.directory),
            token=self._token,
            folder=str(Path.cwd()),
            own=trust.is_own(ledger.directory),
            threads=1,
            command=command,
            draw=draw,
            trust_plugins=trust_plugins,
            log="",
            environment=held(),
        )

    def describe(self) -> str:
        """The cluster and what a job takes of it, in words."""
        needs, size = max(self._needs.values()), len(self._nodes)
        count = min(max(1, self._room(needs)), math.inf if self._most == "auto" else self._most)
        return f"{count} at a time on {size} Ray node{'s' * (size != 1)}, {needs} each"

    def row(self, job: Job) -> Row:
        """What the ledger says of a job that a node has: its process is none of this machine's."""
        return self._ledger.stored(job) if job.number in self._held else super().row(job)

    @property
    def busy(self) -> Sequence[_Actor]:
        return [actor for actor in self._actors if actor.order is not None]

    # ------------------------------------------------------------------- giving orders

    def assign(self) -> None:
        for actor in [each for each in self._actors if each.node is not None and each.order is None]:
            order = next((each for each in self._waiting if self._needs_of(each) == actor.needs), None)
            if order is None:
                self._dismiss(actor)  # its place is another one's
            else:
                self._waiting.remove(order)
                self._give(actor, order)
        self._enlist()

    def _enlist(self) -> None:
        """Start an actor for each order that waits, as many as the cluster has room for."""
        if time.monotonic() - self._looked > _LOOK_EVERY:
            self._nodes, self._looked = nodes(self._ray), time.monotonic()
        coming = [actor for actor in self._actors if actor.node is None]
        for needs, count in self._demand().items():
            alike = sum(actor.needs == needs for actor in self._actors)
            pending = sum(actor.needs == needs for actor in coming)
            room = max(1, self._room(needs)) - alike
            if self._most != "auto":
                room = min(room, self._most - len(self._actors))
            for _ in range(min(room, count - pending)):
                self._start(needs)
        if not self._waiting:
            for actor in coming:
                self._dismiss(actor)
        elif not self.busy and coming and time.monotonic() - self._placed > _PATIENCE:
            self._notice(f"no node of the Ray cluster has room for {coming[0].needs}; waiting for one")
            self._placed = time.monotonic() + 1e9  # said once

    def _demand(self) -> Counter[Needs]:
        """What the waiting orders take; of many, the first are enough."""
        return Counter(self._needs_of(order) for order in islice(self._waiting, _LOOK_AHEAD))

    def _needs_of(self, order: Sequence[int]) -> Needs:
        return max(self._needs[number] for number in order)

    def _room(self, needs: Needs) -> int:
        return sum(needs.fitting(each) for each in self._nodes)

    def _start(self, needs: Needs) -> None:
        log = f"worker-{self._started}.log"
        setup = replace(self._setup, threads=max(1, int(needs.cpus)), log=log)
        # One thread waits for the worker, the other passes signals on.
        options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "max_concurrency": 2, "max_restarts": 0}
        handle = self._ray.remote(**options)(Host).remote(setup)
        self._actors.append(_Actor(handle, needs, handle.describe.remote(), log))
        self._started += 1

    def _give(self, actor: _Actor, order: list[int]) -> None:
        self._taken.update(order)
        self._held.update(order)
        parcel = jobs = None
        if actor.node is not None and not actor.node.shares:
            parcel = self._parcel(order)
            if not actor.has_jobs:
                content = (self._ledger.directory / "jobs.jsonl").read_bytes()
                jobs = self._jobs_sent = self._jobs_sent or self._ray.put(content)
                actor.has_jobs = True
        actor.order = order
        actor.answer = actor.handle.run_order.remote(order, parcel, jobs)

    def _parcel(self, order: Sequence[int]) -> Parcel:
        directories = {number: self._ledger.directory_of(self._jobs[number]) for number in order}
        rows = {number: row for number, row in self._data.values() if number not in order}
        rows.update({number: self._ledger.row(self._jobs[number]) for number in order})
        runs = {number: list(pieces(path)) for number, path in directories.items() if path.is_dir()}
        return Parcel((self._ledger.directory / "sweep.json").read_bytes(), rows, runs)

    # ------------------------------------------------------------------- what comes of them

    def listen(self, seconds: float) -> None:
        asked = {actor.answer: actor for actor in self._actors if actor.answer is not None}
        if not asked:
            time.sleep(seconds)
            return
        ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
        for answer in ready:
            actor = asked[answer]
            try:
                said = self._ray.get(answer)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UnsafeInputError):
                    raise error.cause from error
                raise LauncherError(
                    f"hydra/launcher=ray failed on a node: {str(error.cause).strip().splitlines()[-1]}",
                    f"every node needs trainctl {trainctl.__version__} and what its jobs import",
                ) from error
            except self._ray.exceptions.RayError as error:
                self._lose(actor, error)
            else:
                self._handle(actor, said)

    def _handle(self, actor: _Actor, said: Node | Report) -> None:
        actor.answer = None
        if isinstance(said, Node):
            if said.version != trainctl.__version__:
                raise LauncherError(
                    f"node {said.name} has trainctl {said.version}, the sweep {trainctl.__version__}",
                    f"install trainctl {trainctl.__version__} on every node",
                )
            actor.node, self._placed, self._lost_at_start = said, time.monotonic(), 0
        elif said.done:
            self._finish(actor, said)
        else:
            for number, piece in said.files:
                if number not in actor.incoming:
                    actor.incoming[number] = Incoming(self._ledger.directory_of(self._jobs[number]))
                actor.incoming[number].add(piece)
            for number, row in said.rows.items():
                if row.state == "running":
                    self._ledger.beat(self._jobs[number], row)
            actor.answer = actor.handle.report.remote()

    def _finish(self, actor: _Actor, report: Report) -> None:
        """The order is complete: its files come into their places before the rows say so."""
        order, actor.order = actor.order or [], None
        self._held.difference_update(order)
        for number, incoming in actor.incoming.items():
            directory = self._ledger.directory_of(self._jobs[number])
            if number in report.anew and directory.exists():
                set_aside(directory)
            incoming.finish()
        actor.incoming.clear()
        if report.log:
            with (self._ledger.directory / actor.log).open("ab") as file:
                file.write(report.log)
        for number, row in report.rows.items():
            self._ledger.write(self._jobs[number], row)
            self._compare_data(number, row)
        if report.died is not None:
            self.end_killed(order, report.died)
        self.note_end(order)

    def _compare_data(self, number: int, row: Row) -> None:
        """Jobs that began at the same time on different nodes could not know each other's data."""
        if row.data is None:
            return
        first, then = self._data.setdefault(row.data.split()[0], (number, row))
        if then.data != row.data:
            self._notice(
                f"job {number} was not trained on the data of job {first}: their numbers do not compare"
            )

    def _lose(self, actor: _Actor, error: Exception) -> None:
        """An actor is gone, with its node or alone: its order is put back."""
        self._actors.remove(actor)
        self._looked = 0.0
        for incoming in actor.incoming.values():
            incoming.discard()
        if actor.order is None:
            self._lost_at_start += 1
            if self._lost_at_start > _MOST_LOSSES:
                said = str(error).strip().partition("\n")[0]
                raise LauncherError(f"hydra/launcher=ray: workers die as they start: {said}")
            return
        order, node = actor.order, actor.node
        actor.order = None
        self._held.difference_update(order)
        self._losses.update(order)
        name = node.name if node else "?"
        if self._stopped_at is not None or max(self._losses[each] for each in order) >= _MOST_LOSSES:
            self.end_killed(order, f"lost its node {self._losses[order[0]]} times, the last was {name}")
            return
        left = [number for number in order if not self._put_back(number)]
        if left:
            self._waiting.appendleft(left)
            how = (
                "go on from their newest checkpoints"
                if node and node.shares
                else "start again, because it shares no folder with this machine"
            )
            numbers = ", ".join(map(str, left))
            self._notice(f"lost a worker on node {name}: job{'s' * (len(left) > 1)} {numbers} {how}")

    def _put_back(self, number: int) -> bool:
        """Mark a job as interrupted; returns whether it had ended by itself."""
        job = self._jobs[number]
        row = self._ledger.stored(job)
        if row.state in ("done", "failed"):
            return True
        if row.state == "running":
            self._ledger.write(job, replace(row, state="interrupted", reason="its node was lost"))
        return False

    # ------------------------------------------------------------------- ending them

    def tell(self, number: int) -> None:
        for actor in self.busy:
            actor.handle.tell.remote(number)

    def kill(self) -> None:
        for actor in self.busy:
            self._ray.kill(actor.handle)

    def _dismiss(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        if actor.node is None:
            self._ray.kill(actor.handle)
        else:
            actor.handle.end.remote()
            actor.handle.__ray_terminate__.remote()

    def close(self, seconds: float) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            ended = [actor.handle.end.remote() for actor in self._actors if actor.node and not actor.order]
            if ended:
                self._ray.wait(ended, num_returns=len(ended), timeout=seconds)
            for actor in self._actors:
                self._ray.kill(actor.handle)
        for actor in self._actors:
            for incoming in actor.incoming.values():
                incoming.discard()
        self._actors.clear()
        with contextlib.suppress(OSError):
            (self._ledger.directory / "ledger" / self._token).unlink()
