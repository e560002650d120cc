"""Say what a sweep will take, in time, memory and disk, before it starts: trainctl plan -m KEY=V,V …"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainctl.cli.options import sort
from trainctl.config.overrides import to_hydra
from trainctl.errors import ConfigError
from trainctl.training.startup import collector_paused

_FLAGS = ("-m", "--multirun", "--json")
_OPTIONS: dict[str, tuple[str, ...]] = {"--config-dir": (), "--config-name": ()}


def run(words: list[str]) -> int:
    """Check every job, measure a few steps of each shape, print the cost. Returns 1 where jobs would fail.

    Raises ConfigError with the problems of every job that does not compose.
    """
    plain, given, flags = sort("plan", words, _OPTIONS, _FLAGS)
    as_json = "--json" in flags
    with collector_paused():
        from trainctl.config.composer import Composer
        from trainctl.sweep.checking import check_jobs
        from trainctl.sweep.planning import make_plan

        composer = Composer(given.get("--config-dir"), given.get("--config-name"))
        overrides = [to_hydra(word, sweep=True) for word in plain]
        if composer.sweeper(overrides)[0] != "basic":
            raise ConfigError(
                "plan: which jobs a search has is not known before it runs",
                "plan some of its settings, as lists: trainctl plan -m lr=1e-4,1e-1",
            )
        checked = check_jobs(composer, overrides)
        if composer.launcher(overrides) == "fused":
            said = "hydra/launcher=fused: measured one by one; jobs that train as one model take less time"
            checked = replace(checked, notices=[*checked.notices, said])
        where = Path(composer.sweep_directory(overrides)).expanduser().absolute()
    plan = make_plan(checked)
    free = {"memory": _available_memory(), "disk": _free_disk(where)}
    if as_json:
        print(json.dumps(_plain(plan) | {"free": free}, indent=2))
    else:
        from trainctl.ui.plan import show

        show(plan, checked.jobs, checked.notices, free)
    return 1 if plan.failing else 0


def _plain(plan: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(plan)


def _available_memory() -> int | None:
    """Bytes of memory that a process can still have; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def _free_disk(folder: Path) -> int | None:
    """Free bytes where ``folder`` is or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free if os.access(folder, os.R_OK) else None
    except OSError:
        return None
