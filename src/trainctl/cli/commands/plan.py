"""Estimate time, memory and disk space of a sweep before it starts."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from trainctl.cli.options import CONFIG, JSON, OVERRIDES, Command, Option
from trainctl.config.overrides import to_hydra
from trainctl.errors import ConfigError
from trainctl.training.startup import collector_paused

COMMAND = Command(
    __name__,
    __doc__,
    (OVERRIDES,),
    (Option("--multirun", "accepted, as in the command of the sweep", short="-m"), JSON, *CONFIG),
    (
        ("The cost of four jobs.", "trainctl plan -m lr=1e-2,1e-3 seed=1,2"),
        ("The same for a program.", "trainctl plan -m lr=1e-2,1e-3 seed=1,2 --json"),
    ),
    {1: "jobs would fail, or an internal error", 3: ""},
)


def run(words: list[str]) -> int:
    """Check every job, measure a few steps of each shape, print the costs. Returns 1 where jobs would fail.

    Raises ConfigError with the problems of every job that does not compose.
    """
    asked = COMMAND.parse(words)
    with collector_paused():
        from trainctl.config.composer import Composer
        from trainctl.runs.machine import available_memory
        from trainctl.sweep.checking import check_jobs
        from trainctl.sweep.planning import make_plan

        composer = Composer(asked["--config-dir"], asked["--config-name"])
        overrides = [to_hydra(word, sweep=True) for word in asked.overrides]
        if composer.sweeper(overrides)[0] != "basic":
            raise ConfigError(
                "plan: the jobs of a search are not known before it runs",
                "plan some of its settings as lists: trainctl plan -m lr=1e-4,1e-1",
            )
        checked = check_jobs(composer, overrides)
        if composer.launcher(overrides)[0] == "fused":
            notice = "hydra/launcher=fused: measured one by one; jobs that train as one model take less time"
            checked = replace(checked, notices=[*checked.notices, notice])
        if any(config.devices != 1 for config in checked.configs):
            notice = (
                "devices: steps are timed on one; of several each keeps data and model of its own (memory)"
            )
            checked = replace(checked, notices=[*checked.notices, notice])
        where = Path(composer.sweep_directory(overrides)).expanduser().absolute()
    plan = make_plan(checked)
    free = {"memory": available_memory(), "disk": _free_disk(where)}
    if asked["--json"]:
        print(json.dumps(asdict(plan) | {"free": free}, indent=2))
    else:
        from trainctl.ui.plan import show

        show(plan, checked.jobs, checked.notices, free)
    return 1 if plan.failing else 0


def _free_disk(folder: Path) -> int | None:
    """Free bytes where ``folder`` is or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free if os.access(folder, os.R_OK) else None
    except OSError:
        return None
