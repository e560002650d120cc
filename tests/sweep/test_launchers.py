"""Hydra's own launchers with the ledger: every job finds its row, wherever it runs."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.program import run
from tests.helpers.runs import weights
from trainctl.sweep.ledger import Ledger

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
FAST = ("epochs=1", "threads=1", "display.mode=none")
PLUGINS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
}


@pytest.fixture(params=PLUGINS)
def launcher(request: pytest.FixtureRequest) -> str:
    """One of Hydra's launchers that is installed."""
    if find_spec(PLUGINS[request.param]) is None:
        pytest.skip(f"the launcher {request.param} is not installed")
    return request.param


def test_a_sweep_with_a_failure_is_carried_on(launcher: str, tmp_path: Path) -> None:
    words = ("-m", "optim=sgd", "lr=1e-2,1e30,1e-1", *FAST, "hydra.sweep.dir=s", f"hydra/launcher={launcher}")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    rows = [entry.row for entry in Ledger(tmp_path / "s").rows()]
    assert [row.state for row in rows] == ["done", "failed", "done"]
    assert rows[1].exit_code == 6
    assert {row.pid for row in rows}.isdisjoint({os.getpid(), None})
    assert "lr=1e+30" in done.stdout
    alone = run("optim=sgd", "lr=1e-2", *FAST, "hydra.run.dir=alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert weights(tmp_path / "s/0")[-1] == weights(tmp_path / "alone")[-1]
    # As a kill leaves it: the next command does what is left, and only that.
    (tmp_path / "s/ledger/2.json").unlink()
    record = json.loads((tmp_path / "s/2/run.json").read_text())
    (tmp_path / "s/2/run.json").write_text(json.dumps({**record, "status": "running", "ended": None}))
    again = run(*words, cwd=tmp_path)
    assert again.returncode == 1, again.stderr
    rows = [entry.row for entry in Ledger(tmp_path / "s").rows()]
    assert [row.state for row in rows] == ["done", "failed", "done"]
    assert rows[0].attempts == 1
    assert "(1 done already, 1 to resume, 1 to try again)" in again.stdout


def test_a_search_is_launched_in_batches(launcher: str, tmp_path: Path) -> None:
    words = ("hydra/sweeper=optuna", "lr=tag(log,interval(1e-3,1e-1))", "hydra.sweeper.trials=3", *FAST)
    batch = ("hydra.sweeper.batch=2", "hydra.sweep.dir=s", f"hydra/launcher={launcher}")
    done = run("-m", *words, *batch, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [entry.row.state for entry in Ledger(tmp_path / "s").rows()] == ["done"] * 3
    assert "best: job " in done.stdout
