"""MLflow in a local database, read back with its own client."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import WORDS, killed_after, record
from tests.helpers.told import Points, told
from trainctl.components.trackers.mlflow import MLflow

pytest.importorskip("mlflow")


def client(directory: Path) -> tuple[Any, str]:
    from mlflow import MlflowClient

    note = json.loads((directory / "mlflow.json").read_text())
    return MlflowClient(f"sqlite:///{note['database']}"), note["run_id"]


def points(directory: Path) -> Points:
    store, run_id = client(directory)
    return {
        name: [
            (metric.step, metric.value)
            for metric in sorted(store.get_metric_history(run_id, name), key=lambda metric: metric.step)
        ]
        for name in store.get_run(run_id).data.metrics
    }


@pytest.mark.slow
def test_a_run_goes_on_as_the_same_run_wherever_it_is_resumed(trainctl, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TRAINCTL_PICTURES", "1")
    words = (*WORDS, "tracker=mlflow", "tracker.mlflow.every=2", "name=mine", "lr=0.03")
    kept = ("checkpoint.every_steps=1", "checkpoint.keep_last=99", "hydra.run.dir=run")
    outcome = trainctl(*words, *kept)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    run = tmp_path / "run"
    assert points(run) == told(run, every=2)
    store, run_id = client(run)
    stored = store.get_run(run_id)
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "mine")
    assert stored.data.params["optim.lr"] == "0.03"
    assert not any(key.startswith("tracker") for key in stored.data.params)
    files = {item.path for item in store.list_artifacts(run_id)}
    assert files == {"config.yaml", "curves.svg", "confusion.svg", "model.safetensors"}

    cut = killed_after(run, 6)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = trainctl("resume", str(cut), "epochs=4")
    assert outcome.code == 0, outcome.err
    assert list(Path.cwd().iterdir()) == []
    assert client(cut)[1] == run_id
    resumed = points(cut)
    assert [step for step, _ in resumed["train/loss"]] == list(range(2, 17, 2))
    expected = told(cut, every=2)
    assert {name: resumed[name] for name in ("train/loss", "lr", "val/accuracy")} == {
        name: expected[name] for name in ("train/loss", "lr", "val/accuracy")
    }
    assert store.get_run(run_id).data.tags["changed.train.epochs"] == "4"
    assert record(cut)["trackers"] == {"mlflow": "ok"}


@pytest.mark.slow
def test_odd_names_and_values_and_the_end_of_a_failed_run(tmp_path: Path) -> None:
    tracker = MLflow(uri=f"sqlite:///{tmp_path / 'db'}", experiment="odd/one")
    tracker.start(tmp_path, "name", {"text": "x" * 9000, **{f"key{number}": number for number in range(150)}})
    # Names that are equal once they are cleaned stay apart, also where they come later.
    rows = [(step, {"val/per_class/a#b": float(step), "val/per_class/a_b": -1.0}) for step in range(1200)]
    rows.append((1200, {"val/per_class/a?b": 7.0}))
    tracker.metrics([*rows, (1200, {"train/loss": math.nan})])
    tracker.end("interrupted")
    store, run_id = client(tmp_path)
    run = store.get_run(run_id)
    assert run.info.status == "KILLED"
    assert len(run.data.params) == 151
    assert len(store.get_metric_history(run_id, "val/per_class/a_b")) == 1200
    assert run.data.metrics["val/per_class/a_b"] == 1199.0
    assert run.data.metrics["val/per_class/a_b.2"] == -1.0
    assert run.data.metrics["val/per_class/a_b.3"] == 7.0
    assert math.isnan(run.data.metrics["train/loss"])


@pytest.mark.slow
def test_a_note_leads_into_no_other_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be anybody's, and its note names any file."""
    monkeypatch.chdir(tmp_path)
    run, others = tmp_path / "run", tmp_path / "others"
    run.mkdir()
    others.mkdir()
    with contextlib.closing(sqlite3.connect(others / "mail.db")) as connection:
        connection.execute("create table mails (text)")
    before = (others / "mail.db").read_bytes()
    for place in (others / "mail.db", others / "new.db"):
        (run / "mlflow.json").write_text(json.dumps({"run_id": "abc", "database": str(place)}))
        tracker = MLflow(uri=f"sqlite:///{tmp_path / f'own-{place.name}'}")
        tracker.start(run, "name", {})
        tracker.end("done")
        store, run_id = client(run)
        assert store.get_run(run_id).info.status == "FINISHED"
    assert [path.name for path in others.iterdir()] == ["mail.db"]
    assert (others / "mail.db").read_bytes() == before


@pytest.mark.slow
def test_runs_that_begin_together_make_one_database(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def begin(number: int) -> None:
        try:
            (tmp_path / str(number)).mkdir()
            tracker = MLflow(uri=f"sqlite:///{tmp_path / 'db'}")
            tracker.start(tmp_path / str(number), str(number), {})
            tracker.end("done")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_without_its_package_nothing_is_trained(trainctl, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    outcome = trainctl(*WORDS, "tracker=mlflow")
    assert outcome.code == 2
    assert "tracker=mlflow needs MLflow" in outcome.err
    assert "pip install 'trainctl[mlflow]'" in outcome.err
