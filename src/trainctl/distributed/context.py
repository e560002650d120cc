"""Which of several processes this one is, as torchrun and SLURM say it in the environment."""

from __future__ import annotations

import os

from trainctl.errors import ConfigError


def world_size() -> int:
    """The number of processes that train together; 1 where nothing says otherwise."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_one_process() -> None:
    """Raise ConfigError where a launcher has started several processes for one run."""
    if world_size() > 1:
        raise ConfigError(
            f"WORLD_SIZE={world_size()}: trainctl trains on one device a run",
            "start it without torchrun; choose the device with device=cuda:N",
        )
