"""Readings of the machine: rows of their own, which cost nothing between them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.runs import WORDS, killed_after
from tests.helpers.small_run import CPU, make_run
from tests.helpers.told import told
from trainctl.training.hooks.system import SystemMetrics
from trainctl.training.loop import fit

NAMES = {"system/cpu", "system/process_cpu", "system/memory_gb", "system/memory_free_gb"}


def test_readings_are_those_of_this_process() -> None:
    rows: list[Any] = []
    hook = SystemMetrics(0.1, CPU, lambda run, values: rows.append((run.state.step, values)))
    run = make_run(total_steps=10)
    hook.start(run)
    until, began = time.process_time() + 0.15, time.monotonic()
    while time.process_time() < until:
        pass
    hook.step(run, torch.zeros(()))
    hook.step(run, torch.zeros(()))  # too early
    ((_, busy),) = rows
    assert set(busy) == NAMES
    share = 100 * 0.15 / (time.monotonic() - began)  # another process may have had the core
    assert 0.7 * share < busy["system/process_cpu"] < 400
    assert 0 <= busy["system/cpu"] <= 100
    assert 0.05 < busy["system/memory_gb"] < 1000
    run.hooks.append(hook)
    fit(run)
    assert rows[-1][0] == 10


def test_trackers_get_them_and_a_resumed_run_has_them_once(trainctl, tmp_path: Path) -> None:
    words = (
        *WORDS,
        "tracker=csv",
        "system_metrics=1000",
        "checkpoint.every_steps=1",
        "checkpoint.keep_last=99",
    )
    assert trainctl(*words, "hydra.run.dir=run").code == 0
    cut = killed_after(tmp_path / "run", 6)
    assert trainctl("resume", "cut").code == 0
    rows = [json.loads(line) for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["epoch"]) for row in rows if "system/memory_gb" in row] == [(12, 3)]
    assert set(told(cut)) >= NAMES
    header, *table = (cut / "metrics.csv").read_text().splitlines()
    assert set(header.split(",")) >= NAMES
    assert len(table) == 12


@pytest.mark.gpu
def test_a_gpu_is_read_where_the_driver_tells_it() -> None:
    hook = SystemMetrics(0.1, torch.device("cuda"), lambda run, values: None)
    hook.start(make_run())
    held = torch.ones(2**28, device="cuda")
    until = time.monotonic() + 2
    while time.monotonic() < until:
        held.mul_(1.0)
        torch.cuda.synchronize()
    busy = hook.reading()
    assert held.nbytes / 1e9 < busy["system/gpu_memory_gb"] < 300
    assert 10 < busy["system/gpu"] <= 100
