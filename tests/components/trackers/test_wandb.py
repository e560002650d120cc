"""Weights & Biases offline, with the real library, read back from the folder that `wandb sync` sends."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.runs import WORDS, killed_after, record
from tests.helpers.told import Points, told
from trainctl.components.trackers import wandb as module
from trainctl.errors import ConfigError

OFFLINE = ("tracker=wandb", "tracker.wandb.mode=offline", "tracker.wandb.every=2")


def records(folder: Path) -> Iterator[Any]:
    """Everything that a run has in its file: records in blocks of 32 KiB, each piece with a header."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("run-*.wandb")
    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


def newest(directory: Path) -> Path:
    (folder,) = (directory / "wandb").glob("offline-run-*")
    return folder


def points(folder: Path) -> Points:
    """Step and value by name; each row once, and in a place of its own."""
    found: Points = defaultdict(list)
    places = []
    for each in records(folder):
        if each.WhichOneof("record_type") == "history":
            row = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in each.history.item
            }
            places.append(row["_step"])
            for name, value in row.items():
                if not name.startswith("_") and name != "step":
                    found[name].append((row["step"], float(value)))
    assert places == sorted(set(places))
    return dict(found)


def ordered(found: Points) -> Points:
    return {name: sorted(found[name]) for name in found}


@pytest.mark.slow
def test_a_run_goes_on_as_the_same_run(trainctl, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    kept = ("checkpoint.every_steps=1", "checkpoint.keep_last=99", "hydra.run.dir=run", "name=mine")
    outcome = trainctl(*WORDS, *OFFLINE, *kept)
    assert (outcome.code, outcome.err) == (0, "")
    run = tmp_path / "run"
    assert ordered(points(newest(run))) == ordered(told(run, every=2))
    (begun,) = (each.run for each in records(newest(run)) if each.WhichOneof("record_type") == "run")
    run_id = json.loads((run / "wandb.json").read_text())["run_id"]
    assert (begun.run_id, begun.display_name, begun.run_group) == (run_id, "mine", "")
    configs = {
        item.key or ".".join(item.nested_key): item.value_json
        for each in records(newest(run))
        for item in (*each.config.update, *each.run.config.update)
    }
    assert configs["model.hidden"] == "[16]"
    assert not any(key.startswith("tracker") for key in configs)
    (sent,) = (each.artifact for each in records(newest(run)) if each.WhichOneof("record_type") == "artifact")
    assert {item.path for item in sent.manifest.contents} == {"config.yaml", "model.safetensors"}
    assert all(Path(item.local_path).is_relative_to(run) for item in sent.manifest.contents)

    # Step 8 ends an epoch: its checkpoint is taken before, and its evaluation is made again.
    cut = killed_after(run, 8)
    assert trainctl("resume", "cut", "epochs=4").code == 0
    assert ordered(points(newest(cut))) == ordered(told(cut, every=2))
    (begun,) = (each.run for each in records(newest(cut)) if each.WhichOneof("record_type") == "run")
    assert begun.run_id == run_id
    assert len(list((cut / "wandb").glob("earlier-offline-run-*"))) == 1
    assert record(cut)["trackers"] == {"wandb": "ok"}


@pytest.mark.slow
def test_jobs_of_a_sweep_are_a_group(trainctl, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    words = (*OFFLINE, "seed=1,2", "epochs=1", "threads=1", "hydra.sweep.dir=s", "sweep.jobs=1")
    assert trainctl("-m", *words).code == 0
    groups = [
        each.run.run_group
        for number in (0, 1)
        for each in records(newest(tmp_path / "s" / str(number)))
        if each.WhichOneof("record_type") == "run"
    ]
    assert groups == [f"{tmp_path.name}/s"] * 2


@pytest.mark.slow
def test_a_server_that_is_gone_ends_nothing(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setitem(module._SETTINGS, "init_timeout", 3.0)
    outcome = trainctl(*WORDS, "tracker=wandb", "tracker.wandb.uri=http://127.0.0.1:9", "hydra.run.dir=run")
    assert outcome.code == 0
    assert record(tmp_path / "run")["trackers"]["wandb"].startswith("failed at step 0")


class Told:
    """In place of the library: what it was told."""

    def __init__(self, first: int = 0) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.settings = SimpleNamespace(mode="online", base_url="http://there")
        self.starting_step, self.summary, self.config, self.given = first, {}, {}, {}

    def setup(self) -> Told:
        return self

    def init(self, **given: Any) -> Told:
        self.given = given
        return self

    def Settings(self, **given: Any) -> dict[str, Any]:  # noqa: N802 - its name
        return given

    def Artifact(self, name: str, type: str) -> Any:  # noqa: N802 - its name
        return SimpleNamespace(manifest=SimpleNamespace(entries={}))

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, row: dict[str, float], step: int) -> None:
        self.rows.append((step, row))

    def finish(self, exit_code: int) -> None:
        self.code = exit_code


class _Config(dict[str, Any]):
    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:  # type: ignore[override]
        super().update(values)


def test_what_the_server_has_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    rows = [(1, {"train/loss": 2.0}), (2, {"train/loss": 1.0}), (2, {"val/loss": 3.0})]
    rows += [(2, {"test/a#b": 1.0, "test/a b": math.nan})]
    seen = []
    for first in (0, 3 * 2 + 1, 3 * 2 + 3):  # nothing; stopped before the evaluation; all of it
        told = Told(first)
        told.config = _Config()
        monkeypatch.setitem(sys.modules, "wandb", told)
        tracker = module.Wandb()
        tracker.start(tmp_path, "name", {"optim.lr": 0.1})
        tracker.metrics(rows)
        tracker.end("interrupted")
        assert told.given["resume"] == "allow"
        assert told.code == 1
        seen.append((told.given["id"], len(told.rows)))
    assert [count for _, count in seen] == [4, 2, 0]
    assert len({run_id for run_id, _ in seen}) == 1
    assert told.config == {"optim.lr": 0.1}


def test_without_an_account_or_the_package_nothing_is_trained(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Told())
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in module._SIGNED_IN:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="not logged in at http://there"):
        module.Wandb()
    assert module.Wandb(mode="offline").offline
    monkeypatch.setitem(sys.modules, "wandb", None)
    outcome = trainctl(*WORDS, "tracker=wandb")
    assert outcome.code == 2
    assert "pip install 'trainctl[wandb]'" in outcome.err
    assert trainctl(*WORDS, "tracker=wandb", "tracker.wandb.mode=of").code == 2
