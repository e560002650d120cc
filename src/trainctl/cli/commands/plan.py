"""Estimate the time, memory and disk space of a sweep before it starts: plan -m KEY=VALUE,VALUE …"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from trainctl.cli.options import CONFIG, sort
from trainctl.config.overrides import to_hydra
from trainctl.errors import ConfigError
from trainctl.training.startup import collector_paused

_FLAGS = ("-m", "--multirun", "--json")


def run(words: list[str]) -> int:
    """Check every job, measure a few steps of each shape, print the costs. Returns 1 where jobs would fail.

    Raises ConfigError with the problems of every job that does not compose.
    """
    plain, given, flags = sort("plan", words, CONFIG, _FLAGS)
    with collector_paused():
        from trainctl.config.composer import Composer
        from trainctl.sweep.checking import check_jobs
        from trainctl.sweep.planning import make_plan
        from trainctl.sweep.worker_slots import available_memory

        composer = Composer(given.get("--config-dir"), given.get("--config-name"))
        overrides = [to_hydra(word, sweep=True) for word in plain]
        if composer.sweeper(overrides)[0] != "basic":
            raise ConfigError(
                "plan: the jobs of a search are not known before it runs",
                "plan some of its settings as lists: trainctl plan -m lr=1e-4,1e-1",
            )
        checked = check_jobs(composer, overrides)
        if composer.launcher(overrides) == "fused":
            notice = "hydra/launcher=fused: measured one by one; jobs that train as one model take less time"
            checked = replace(checked, notices=[*checked.notices, notice])
        where = Path(composer.sweep_directory(overrides)).expanduser().absolute()
    plan = make_plan(checked)
    free = {"memory": available_memory(), "disk": _free_disk(where)}
    if "--json" in flags:
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
