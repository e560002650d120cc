"""A run copied to a bucket beside the training: all of it arrives, is verified when it is read, and an outage
stops nothing."""

from __future__ import annotations

import json
import logging
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trainctl as package
from tests.helpers.runs import EVERY, STEPS, WORDS, at, record, same_end, saved
from trainctl.checkpoint.format import MODEL
from trainctl.checkpoint.mirrored import Mirrored
from trainctl.checkpoint.remote import RemoteStore
from trainctl.errors import CheckpointError, ConfigError
from trainctl.training.hooks import mirror
from trainctl.training.state import State

PLAIN = (*WORDS, "checkpoint.every_steps=1", "checkpoint.keep_last=2", "display.mode=plain")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket/first"


def stored(url: str) -> dict[str, bytes]:
    """The files below a URL of the disk, by their path there."""
    root = Path(url.removeprefix("file://"))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIGTERM in the middle of an epoch."""
    stepped = State.stepped

    def signalled(state: State, *arguments: Any) -> None:
        stepped(state, *arguments)
        if state.step == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(State, "stepped", signalled)


def test_what_the_run_keeps_is_on_the_bucket_and_nothing_else(
    trainctl: Callable[..., Any], tmp_path: Path, url: str
) -> None:
    outcome = trainctl(*PLAIN, f"checkpoint.mirror={url}", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    there, run = stored(url), tmp_path / "run"
    names = {path.split("/")[1] for path in there if path.startswith("checkpoints/")}
    assert names == {path.name for path in (run / "checkpoints").iterdir()}
    for path in (run / "checkpoints").rglob("*.*"):
        assert there[str(path.relative_to(run))] == path.read_bytes()
    (newest,) = {path.split("/")[1] for path in there if path.startswith("files/")}
    for name in ("config.yaml", "overrides.yaml", "metrics.jsonl"):
        assert there[f"files/{newest}/{name}"] == (run / name).read_bytes()
    assert json.loads(there[f"files/{newest}/run.json"])["status"] == "done"
    noted = record(run)["mirror"]
    assert noted == {
        "url": url,
        "id": json.loads(there["owner.json"])["id"],
        "newest": f"step-{STEPS:08d}",
        "lacks": [],
        "error": None,
    }
    # Another run does not write over it.
    outcome = trainctl(*PLAIN, f"checkpoint.mirror={url}", "hydra.run.dir=other")
    assert outcome.code == 7
    assert "belongs to another run" in outcome.err


def test_a_run_is_carried_on_from_the_bucket_to_the_same_bits(
    trainctl: Callable[..., Any], tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trainctl(*WORDS, *EVERY, "checkpoint.keep_last=2").code == 0
    with monkeypatch.context() as patched:
        stop_at(6, patched)
        words = (*PLAIN[:-1], "display.mode=none", f"checkpoint.mirror={url}", "hydra.run.dir=cut")
        assert trainctl(*words).code == 143
    outcome = trainctl("resume", url)
    assert outcome.code == 0, outcome.err
    (resumed,) = (path.parent for path in tmp_path.glob("outputs/*/*/run.json"))
    assert same_end(tmp_path / "run", resumed)
    assert record(resumed)["mirror"]["url"] == url
    assert stored(url)[f"checkpoints/step-{STEPS:08d}/{MODEL}"] == (at(resumed, STEPS) / MODEL).read_bytes()
    # The first machine comes back: what it writes would be behind.
    outcome = trainctl("resume", "cut")
    assert outcome.code == 7
    assert f"trainctl resume {url}" in outcome.err
    # A finished one has nothing to do.
    assert "finished" in trainctl("resume", url).out


def test_what_is_read_is_verified_first(trainctl: Callable[..., Any], tmp_path: Path, url: str) -> None:
    assert (
        trainctl(*PLAIN, "checkpoint.keep_best=2", f"checkpoint.mirror={url}", "hydra.run.dir=run").code == 0
    )
    wanted, used = package.load("run", "last"), package.load(url, "last")
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(tensor, used.state_dict()[name])
    newest = tmp_path / "bucket/first/checkpoints" / f"step-{STEPS:08d}"
    for cached in (tmp_path / ".cache/trainctl/mirrors").glob(f"*/checkpoints/{newest.name}"):
        (cached / MODEL).write_bytes(b"damaged here")
    assert package.load(url, "last").state_dict().keys() == wanted.state_dict().keys()
    (newest / MODEL).write_bytes((newest / MODEL).read_bytes()[:-1])  # half-written
    for cached in (tmp_path / ".cache/trainctl/mirrors").glob(f"*/checkpoints/{newest.name}/{MODEL}"):
        cached.unlink()
    outcome = trainctl("eval", url, "--checkpoint", "last")
    assert f"damaged, not used: {url}/checkpoints/{newest.name}" in outcome.out
    for path in newest.parent.glob("*/manifest.json"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        package.load(url)
    with pytest.raises(CheckpointError, match="no run was mirrored there"):
        package.load(f"{url}/other")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of writes that are still to fail, after the first that are to succeed."""
    left, put = [0, 0], RemoteStore.put

    def fails(store: RemoteStore, name: str, file: str, pieces: Any) -> None:
        left[0] -= 1
        if left[0] < 0 and left[1] > 0:
            left[1] -= 1
            put(store, name, file, [*pieces][:1])
            raise ConnectionError("the service is away")
        put(store, name, file, pieces)

    monkeypatch.setattr(RemoteStore, "put", fails)
    yield left
    logging.getLogger("trainctl").handlers.clear()


@pytest.mark.quick(1)
@pytest.mark.parametrize("first", [0, 7])
def test_what_fails_is_tried_again_and_arrives(
    first: int, trainctl: Callable[..., Any], tmp_path: Path, url: str, failing: list[int]
) -> None:
    failing[:] = [first, 4]
    outcome = trainctl(*PLAIN, f"checkpoint.mirror={url}", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert record(tmp_path / "run")["mirror"]["lacks"] == []
    assert {path.split("/")[1] for path in stored(url) if path.endswith(MODEL)} == {
        f"step-{step:08d}" for step in saved(tmp_path / "run")
    }


def test_an_outage_stops_nothing_and_is_said(
    trainctl: Callable[..., Any], tmp_path: Path, url: str, failing: list[int]
) -> None:
    failing[:] = [3, 10**9]
    outcome = trainctl(*PLAIN, f"checkpoint.mirror={url}", "hydra.run.dir=run")
    assert outcome.code == 0
    assert "the service is away" in outcome.out
    lacks = [path.name for path in sorted((tmp_path / "run/checkpoints").iterdir())]
    assert f"it lacks {', '.join(lacks)}, which run has" in outcome.out
    noted = record(tmp_path / "run")["mirror"]
    assert (noted["lacks"], "away" in noted["error"]) == (lacks, True)
    assert "the service is away" in (tmp_path / "run/train.log").read_text()
    failing[:] = [0, 0]
    assert trainctl("resume", "run").code == 0  # finished, but for the copy
    assert record(tmp_path / "run")["mirror"]["lacks"] == []
    assert package.load(url) is not None
    assert "finished" in trainctl("resume", "run").out


def test_a_run_that_was_taken_over_stops_writing(tmp_path: Path, url: str) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    told: list[str] = []
    ours = mirror.make_mirror(url, tmp_path / "run", None, told.append, lambda values: None)
    Mirrored(url).claim("another")
    ours.start(None)  # type: ignore[arg-type]
    ours.close()
    assert any("belongs to another run" in line for line in told)
    assert [path for path in stored(url) if path != "owner.json"] == []


@pytest.mark.slow
def test_a_run_of_somebody_else_opens_no_connection(
    trainctl: Callable[..., Any], url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        stop_at(6, patched)
        assert trainctl(*PLAIN, f"checkpoint.mirror={url}", "hydra.run.dir=run").code == 143
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    outcome = trainctl("resume", "run")
    assert outcome.code == 3
    assert "checkpoint.mirror would open a connection" in outcome.err
    assert trainctl("resume", "run", "checkpoint.mirror=null").code == 0


@pytest.mark.parametrize(
    "url", ["file://relative/folder", "memory://", "nothing://bucket/run", "s3://bucket::file:///x"]
)
def test_a_url_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(url.rstrip("/"))):
        RemoteStore(url)


def test_credentials_are_no_part_of_a_url(trainctl: Callable[..., Any]) -> None:
    outcome = trainctl(*WORDS, "checkpoint.mirror=s3://key:secret@bucket/run")
    assert outcome.code == 2
    assert "must be a URL such as s3://BUCKET/FOLDER" in outcome.err


def test_a_run_begins_with_the_weights_of_a_mirrored_one(
    trainctl: Callable[..., Any], tmp_path: Path, url: str
) -> None:
    words = (*WORDS, "checkpoint.keep_last=1", "display.mode=plain")
    assert trainctl(*words, f"checkpoint.mirror={url}", "hydra.run.dir=run").code == 0
    for name, source in (("there", url), ("here", "run")):
        outcome = trainctl(*words, f"init_from={source}", "seed=1", f"hydra.run.dir={name}")
        assert outcome.code == 0, outcome.err
        assert f"init_from={source}: 4 of 4 tensors copied" in outcome.out
    assert (at(tmp_path / "there", STEPS) / MODEL).read_bytes() == (
        at(tmp_path / "here", STEPS) / MODEL
    ).read_bytes()
    assert trainctl("verify", "there").code == 0
    for path in (tmp_path / "bucket/first/checkpoints").glob(f"*/{MODEL}"):
        path.write_bytes(path.read_bytes()[:-1])
    for cached in (tmp_path / ".cache/trainctl/mirrors").glob("*"):
        cached.rename(cached.with_name("gone"))
    outcome = trainctl(*words, f"init_from={url}", "hydra.run.dir=damaged")
    assert outcome.code == 4
    assert "no usable checkpoint" in outcome.err
    outcome = trainctl(*words, f"init_from={url}/other", "hydra.run.dir=absent")
    assert (outcome.code, "no run was mirrored there" in outcome.err) == (4, True)


def test_a_mirrored_run_is_ranked_beside_others(
    trainctl: Callable[..., Any], tmp_path: Path, url: str
) -> None:
    words = (*WORDS, "checkpoint.keep_last=1", "display.mode=none")
    assert trainctl(*words, f"checkpoint.mirror={url}", "hydra.run.dir=run").code == 0
    assert trainctl(*words, "optim.lr=1e-5", "hydra.run.dir=other").code == 0
    outcome = trainctl("compare", url, "other", "--json", "-")
    assert outcome.code == 0, outcome.err
    best = json.loads(outcome.out)["groups"][0]["rows"][0]
    assert record(tmp_path / "run")["best"]["val/accuracy"] == best["mean"], best
    assert not [*(tmp_path / ".cache/trainctl/mirrors").glob("*/checkpoints/*")]
    outcome = trainctl("compare", f"{url}/other")
    assert (outcome.code, "no run was mirrored there" in outcome.err) == (4, True)
