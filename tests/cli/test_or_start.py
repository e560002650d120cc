"""resume --or-start: one command that begins a run, and carries it on each time after."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.helpers.runs import STEPS, at, config, killed_after, metrics, record, saved
from trainctl.runs.directory import lock

WORDS = ("epochs=3", "batch_size=320", "model.hidden=[16]", "experiment=digits_cosine", "threads=1")
EVERY = ("checkpoint.every_steps=1", "checkpoint.keep_last=100", "display.mode=none")


def test_the_same_words_begin_a_run_resume_it_and_find_it_finished(trainctl, tmp_path: Path) -> None:
    words = ("resume", "first", "--or-start", *WORDS, *EVERY)
    assert trainctl(*words).code == 0
    run = tmp_path / "outputs/first"
    assert record(run)["name"] == "first"
    assert record(run)["command"].startswith("trainctl resume first --or-start epochs=3")
    assert "this run is finished" in trainctl(*words).out
    cut = killed_after(run, 5)
    shutil.rmtree(run)
    cut.rename(run)
    outcome = trainctl(*words)
    assert outcome.code == 0, outcome.err
    assert record(run)["resumed"]["step"] == 5
    assert record(run)["resumed"]["changes"] == {}
    assert [line["step"] for line in metrics(run) if "lr" in line] == list(range(1, STEPS + 1))
    # Words that it did not begin with change it; those with which it began do not change it back.
    outcome = trainctl(*words, "epochs=4", "--allow-change")
    assert outcome.code == 0, outcome.err
    assert record(run)["resumed"]["changes"] == {"train.epochs": [3, 4]}
    shutil.rmtree(at(run, saved(run)[-1]))
    (run / "run.json").write_text(json.dumps({**record(run), "status": "terminated"}))
    assert trainctl(*words).code == 0
    assert "an earlier resume changed, and this keeps: train.epochs: 3 → 4" in (run / "train.log").read_text()
    assert config(run)["train"]["epochs"] == 4
    other = trainctl("resume", "first", "--or-start", "experiment=digits_adamw")
    assert (other.code, "cannot be applied to an existing run" in other.err) == (2, True)


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(trainctl, tmp_path: Path) -> None:
    words = ("resume", "runs/a", "--or-start", "epochs=1", "threads=1", "display.mode=none")
    run = tmp_path / "runs/a"
    for left in (b'{"version": 1, "status": "running"}', b""):  # killed once it was claimed; while it was
        run.mkdir(parents=True)
        (run / "run.json").write_bytes(left)
        assert trainctl("resume", "runs/a").code == 4
        with lock(run):
            assert trainctl(*words).code == 7
        outcome = trainctl(*words)
        assert outcome.code == 0, outcome.err
        assert "stopped before its first checkpoint" in outcome.out
        assert record(run)["status"] == "done"
        assert record(run)["name"] is None
        shutil.rmtree(run)
    assert sorted(path.name for path in run.parent.iterdir()) == ["a.unsaved-1", "a.unsaved-2"]


def test_a_name_that_another_run_has_is_said(trainctl, tmp_path: Path) -> None:
    words = ("name=mine", "train.max_steps=1", "threads=1", "model.hidden=[16]")
    first = trainctl(*words)
    assert "has this name" not in first.out
    assert ["name", "mine"] in [line.split()[:2] for line in first.out.splitlines()]
    heading, row = [line.split() for line in trainctl("compare", "mine").out.splitlines()[2:4]]
    assert "name" in heading
    assert "mine" in row
    (old,) = (path.parent.relative_to(tmp_path) for path in tmp_path.glob("outputs/2*/*/run.json"))
    assert f"name=mine: {old} has this name, too; from now on it means this run" in trainctl(*words).out


def test_damaged_checkpoints_and_foreign_folders_are_no_reason_to_begin_anew(
    trainctl, tmp_path: Path
) -> None:
    words = ("resume", "first", "--or-start", "epochs=1", "threads=1", "display.mode=none")
    assert trainctl(*words).code == 0
    run = tmp_path / "outputs/first"
    (run / "run.json").write_text(json.dumps({**record(run), "status": "running"}))
    for path in run.glob("checkpoints/step-*/model.safetensors"):
        path.write_bytes(b"")
    assert trainctl(*words).code == 4
    (run / "run.json").unlink()
    assert trainctl(*words).code == 7
    (tmp_path / "first").mkdir()  # of that name, and no run
    assert trainctl(*words).code == 7
    for wrong in (
        ("last",),
        ("s3://bucket/a",),
        ("a", "name=b"),
        ("a", "hydra.run.dir=b"),
        ("a", "-m"),
        ("",),
    ):
        assert trainctl("resume", *wrong, "--or-start").code == 2, wrong
    assert sorted(path.name for path in tmp_path.glob("outputs/*")) == ["first", "latest"]
