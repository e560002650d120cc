"""From one request to the same run in several processes: what rank 0 tells the others, and what they do."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainctl.checkpoint.format import read_checkpoint
from trainctl.checkpoint.mirrored import located
from trainctl.config.config_diff import Change
from trainctl.config.settings import Config
from trainctl.config.stored_config import parse_config
from trainctl.data.fingerprint import described_data
from trainctl.distributed.context import World, launched
from trainctl.distributed.group import Group, announce, await_others, joined, meeting_place
from trainctl.distributed.launch import Ranks, end_with_parent, own_log
from trainctl.errors import RankError, TrainctlError
from trainctl.registry import plugins
from trainctl.runs.record import RunRecord
from trainctl.runs.secrets import held
from trainctl.training import artifacts
from trainctl.training.agreed_control import obey_at
from trainctl.training.build import build
from trainctl.training.devices import following, keeper, take_best
from trainctl.training.hooks.signals import Signals
from trainctl.training.loop import evaluate_split
from trainctl.training.request import Request
from trainctl.training.resume import resume

_UNTIL_TOLD = 600.0


@contextmanager
def together(request: Request, record: RunRecord, ranks: Ranks | None) -> Iterator[Group | None]:
    """The processes of this run inside, this one as rank 0; None for a run on one device.

    Args:
        ranks: the others, where this process has started them.

    Raises RankError where one of them does not come to the end.
    """
    world = launched() if ranks is None else ranks.world
    if world is None:
        yield None
        return
    message = _message(request, record)
    with joined(world, message["timeout"]) if ranks is None else told(ranks, message) as group:
        if ranks is None:
            group.first(message)
        record.update(ranks=[{"rank": rank, "host": host} for rank, host in enumerate(group.hosts)])
        yield group


@contextmanager
def told(ranks: Ranks, message: Mapping[str, Any]) -> Iterator[Group]:
    """The group of this process, as rank 0, and of ``ranks``, which are told ``message``. Raises RankError
    where one of them does not come to the end."""
    store = meeting_place(ranks.world)
    ranks.tell({"port": store.port, **message})
    await_others(ranks.world, store, ranks.require_all)
    try:
        with joined(ranks.world, message["timeout"], store) as group:
            yield group
    except RankError as error:
        if (failed := ranks.failure(timeout=message["timeout"])) is not None:
            raise failed from error
        raise


def _message(request: Request, record: RunRecord) -> dict[str, Any]:
    """What the others need to know of the run, as JSON."""
    config, resumed = request.config, request.resumed
    begins: Mapping[str, Any] | None = None
    if resumed is not None:
        config = resumed.with_recorded_threads(config, record.values)
        begins = begin_at(resumed.checkpoint, resumed.changes, allow_change=resumed.allow_change)
    return message_of(config, request.files["config.yaml"], request.directory, begins)


def begin_at(
    checkpoint: Path, changes: Sequence[Change] = (), *, allow_change: bool = False
) -> dict[str, Any]:
    """Which checkpoint a run begins with, as JSON; arguments as of :class:`.request.Resumed`."""
    changed = [asdict(change) for change in changes]
    return {"checkpoint": str(checkpoint), "changes": changed, "allow_change": allow_change}


def message_of(
    config: Config,
    text: str,
    directory: Path,
    begins: Mapping[str, Any] | None,
    *,
    stored: Mapping[str, Any] | None = None,
    looks: Sequence[int] = (),
) -> dict[str, Any]:
    """What the others need to know, as JSON.

    Args:
        text: the stored config, of which ``config`` is checked.
        begins: what :func:`begin_at` says; None begins anew.
        stored: of the data, for a run that begins anew as it once did.
        looks: further steps after which all look at what is asked for.
    """
    return {
        "directory": str(directory),
        "config": text,
        "init_from": None if config.init_from is None else str(located(config.init_from)[0]),
        "device": config.device,
        "threads": config.threads,
        "timeout": config.strategy.timeout,
        "stored": stored,
        "looks": list(looks),
        "resumed": begins,
        "secrets": held(),
    }


def follow_launched(world: World) -> None:
    """Be one of the processes that torchrun or srun has started, rank 0 aside."""
    with joined(world, _UNTIL_TOLD) as group:
        message = group.first(None)
        group.answer_within(message["timeout"])
        own_log(Path(message["directory"]), world.rank)
        _follow(message, group)


def follow_parent() -> None:
    """Be one of the processes that rank 0 has started: read which run to do, and do this one's part of it."""
    world, line = launched(), end_with_parent()
    if world is None or not line:
        return
    message = json.loads(line)
    store = meeting_place(world, message["port"])
    announce(world, store)
    with joined(world, message["timeout"], store) as group:
        _follow(message, group)


def _follow(message: Mapping[str, Any], group: Group) -> None:
    """Train with rank 0, from the config that it has checked."""
    directory, resumed, stored = Path(message["directory"]), message["resumed"], message["stored"]
    os.environ.update(message["secrets"])
    config = parse_config(message["config"], "the run of rank 0", lambda named: None)
    config = replace(config, **{key: message[key] for key in ("device", "threads", "init_from")})
    plugins.load(config.plugins)
    if resumed is not None:
        content = read_checkpoint(Path(resumed["checkpoint"]))
        stored = described_data(content.state)
    built = build(config, stored=stored, group=group)
    run, signals = built.run, Signals()
    obey_at(run, message["looks"])
    run.attach([following(config, group, directory / "checkpoints", built.shards), signals])
    if (guard := run.hook("guard")) is not None:
        guard.keep = keeper(config, group, None)
    if resumed is not None:
        changes = [Change(**each) for each in resumed["changes"]]
        not_here = content.state["parts"].keys() - built.parts().keys()
        resume(built, content, changes, sorted(not_here), allow_change=resumed["allow_change"])
        if message["looks"]:  # rank 0 compares
            run.save()
    with signals.caught(), contextlib.closing(built):
        try:
            built.fit(run)
        except TrainctlError as error:
            if error.status in ("interrupted", "terminated"):  # rank 0 saves the run now
                run.save()
            raise
        split, counts, best = group.first(None)
        loader = built.test if split == "test" else run.val_loader
        if loader is not None:
            take_best(run, group, best)
            confusion = artifacts.Confusion(built.data.output_size) if counts else None
            evaluate_split(artifacts.counting(run, confusion), split, loader)
