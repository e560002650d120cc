"""From one request to the same run in several processes: what rank 0 tells the others, and what they do."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainctl.checkpoint.format import read_checkpoint
from trainctl.checkpoint.mirrored import located
from trainctl.config.config_diff import Change
from trainctl.config.stored_config import parse_config
from trainctl.data.fingerprint import described_data
from trainctl.distributed.context import World, launched
from trainctl.distributed.group import Group, announce, await_others, joined, meeting_place
from trainctl.distributed.launch import Ranks, end_with_parent, own_log
from trainctl.errors import RankError, TrainctlError
from trainctl.registry import plugins
from trainctl.runs.record import RunRecord
from trainctl.training import artifacts
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
    store: Any = None
    if ranks is not None:
        store = meeting_place(world)
        ranks.tell({"port": store.port, **_message(request, record)})
        await_others(world, store, ranks.require_all)
    try:
        with joined(world, request.config.strategy.timeout, store) as group:
            if ranks is None:
                group.first(_message(request, record))
            hosts = group.gather(platform.node())
            record.update(ranks=[{"rank": rank, "host": host} for rank, host in enumerate(hosts)])
            yield group
    except RankError as error:
        told = None if ranks is None else ranks.failure()
        if told is not None:
            raise told from error
        raise


def _message(request: Request, record: RunRecord) -> dict[str, Any]:
    """What the others need to know of the run, as JSON."""
    config, resumed = request.config, request.resumed
    if resumed is not None:
        config = resumed.with_recorded_threads(config, record.values)
    return {
        "directory": str(request.directory),
        "config": request.files["config.yaml"],
        "init_from": None if config.init_from is None else str(located(config.init_from)[0]),
        "threads": config.threads,
        "timeout": config.strategy.timeout,
        "resumed": None
        if resumed is None
        else {
            "checkpoint": str(resumed.checkpoint),
            "changes": [asdict(change) for change in resumed.changes],
            "allow_change": resumed.allow_change,
        },
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
    group.gather(platform.node())
    directory = Path(message["directory"])
    resumed = message["resumed"]
    config = parse_config(message["config"], "the run of rank 0", lambda named: None)
    config = replace(config, threads=message["threads"], init_from=message["init_from"])
    plugins.load(config.plugins)
    if resumed is None:
        built = build(config, group=group)
    else:
        content = read_checkpoint(Path(resumed["checkpoint"]))
        stored = described_data(content.state)
        built = build(config, stored=stored, group=group)
    run, signals = built.run, Signals()
    run.attach([following(config, group, directory / "checkpoints", built.shards), signals])
    if (guard := run.hook("guard")) is not None:
        guard.keep = keeper(config, group, None)
    if resumed is not None:
        changes = [Change(**each) for each in resumed["changes"]]
        not_here = content.state["parts"].keys() - built.parts().keys()
        resume(built, content, changes, sorted(not_here), allow_change=resumed["allow_change"])
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
