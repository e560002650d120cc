"""Which of several processes this one is, as torchrun and SLURM say it. Imports no torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from trainctl.errors import ConfigError

_REMEDY = "start it with torchrun or srun, which set all of it; or unset WORLD_SIZE"


class World(NamedTuple):
    """The place of a process among those that train one model.

    Attributes:
        rank: from 0 to ``size - 1``; rank 0 logs, saves and shows.
        size: processes, one a device.
        local_rank, local_size: the same among the processes of this machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int


def launched() -> World | None:
    """The place that torchrun or srun gave this process; None where it is alone.

    Raises ConfigError for variables that make no sense, alone or together.
    """
    _from_slurm()
    names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
    given = {name: os.environ[name] for name in names if name in os.environ}
    if given.get("WORLD_SIZE", "1") == "1":
        return None
    try:
        size, rank = int(given["WORLD_SIZE"]), int(given["RANK"])
        world = World(
            rank, size, int(given.get("LOCAL_RANK", rank)), int(given.get("LOCAL_WORLD_SIZE", size))
        )
    except (KeyError, ValueError):
        world = World(0, 0, 0, 0)
    if not (0 <= world.rank < world.size and 0 <= world.local_rank < world.local_size <= world.size):
        said = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ConfigError(
            f"{said}: this does not say which process this one is",
            _REMEDY,
        )
    return world


def check_meeting_place() -> None:
    """Raises ConfigError unless MASTER_ADDR and MASTER_PORT say where processes of a launcher meet."""
    port = os.environ.get("MASTER_PORT", "")
    if not os.environ.get("MASTER_ADDR"):
        raise ConfigError("WORLD_SIZE is set, and MASTER_ADDR, where the processes meet, is not", _REMEDY)
    if not (port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ConfigError(f"MASTER_PORT={port}: no port from 1 to 65535, where the processes meet", _REMEDY)


def as_many_devices(overrides: list[str]) -> list[str]:
    """The override that says how many processes torchrun or srun has started; none for one alone.

    Raises ConfigError where ``overrides`` say another number.
    """
    world = launched()
    if world is None:
        return []
    asked = [word for word in overrides if word.lstrip("+").startswith("devices=")]
    for word in asked:
        if word.partition("=")[2] not in ("auto", str(world.size)):
            raise ConfigError(
                f"{word}: {world.size} processes were started, one a device",
                f"leave devices out, or start {word.partition('=')[2]}",
            )
    return [f"devices={world.size}"]


def _from_slurm() -> None:
    """Say in torch's words what srun says in its own. The script of an sbatch job itself is no rank."""
    slurm = os.environ
    if "WORLD_SIZE" in slurm or slurm.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return
    if not slurm.get("SLURM_STEP_ID", "").isdigit() or "SLURM_PROCID" not in slurm:
        return
    per_node = slurm.get("SLURM_STEP_TASKS_PER_NODE", slurm["SLURM_STEP_NUM_TASKS"]).partition("(")[0]
    slurm.update(
        RANK=slurm["SLURM_PROCID"],
        WORLD_SIZE=slurm["SLURM_STEP_NUM_TASKS"],
        LOCAL_RANK=slurm.get("SLURM_LOCALID", "0"),
        LOCAL_WORLD_SIZE=per_node.partition(",")[0],
    )
    slurm.setdefault("MASTER_ADDR", _first_host(slurm.get("SLURM_STEP_NODELIST", "localhost")))
    job = slurm.get("SLURM_JOB_ID", "")
    slurm.setdefault("MASTER_PORT", str(15_000 + int(job if job.isdecimal() else 0) % 20_000))


def _first_host(hosts: str) -> str:
    """The first of SLURM's list of hosts: ``node[03-05,09],gpu1`` begins with ``node03``."""
    head, bracket, rest = hosts.partition("[")
    if not bracket or "," in head:
        return head.partition(",")[0]
    inside, _, after = rest.partition("]")
    return head + inside.partition(",")[0].partition("-")[0] + after.partition(",")[0]
