"""hydra/launcher=ray without a cluster: its settings, what a job takes, files from other machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainctl.config.composer import Composer
from trainctl.errors import UnsafeInputError
from trainctl.sweep.ray.settings import Needs, RaySettings, needs_of
from trainctl.sweep.ray.transfer import PIECE, Incoming, Piece, pieces

WORDS = ("-m", "lr=1e-2,1e-3", "epochs=1", "hydra/launcher=ray", "hydra.sweep.dir=s")
AUTO = RaySettings(address="auto", cpus="auto", gpus="auto")


def test_without_the_package_the_error_names_the_extra(trainctl, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = trainctl(*WORDS)
    assert outcome.code == 2
    assert "hydra/launcher=ray: the package ray is not installed" in outcome.err
    assert "pip install 'trainctl[ray]'" in outcome.err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("hydra.launcher.cpus=0", "hydra.launcher.cpus=0"),
        ("hydra.launcher.gpus=-1", "hydra.launcher.gpus=-1"),
        ("hydra.launcher.address=7", "hydra.launcher.address=7"),
    ],
)
def test_wrong_settings_are_refused(trainctl, tmp_path: Path, words: str, said: str) -> None:
    outcome = trainctl(*WORDS, words)
    assert (outcome.code, said in outcome.err) == (2, True), outcome.err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "settings", "has_gpus", "needs"),
    [
        ((), {}, False, Needs(gpus=0, cpus=1)),
        ((), {}, True, Needs(gpus=1, cpus=1)),
        (("device=cpu", "threads=4"), {}, True, Needs(gpus=0, cpus=4)),
        (("device=cuda",), {}, False, Needs(gpus=1, cpus=1)),
        (("device=cuda", "devices=2", "threads=3"), {}, True, Needs(gpus=2, cpus=6)),
        (("device=cpu", "devices=2"), {}, False, Needs(gpus=0, cpus=2)),
        ((), {"gpus": 0.5, "cpus": 2}, True, Needs(gpus=0.5, cpus=2)),
    ],
)
def test_what_a_job_takes(
    words: tuple[str, ...], settings: Mapping[str, float], has_gpus: bool, needs: Needs
) -> None:
    config = Composer().compose(list(words)).config
    assert needs_of(config, AUTO.model_copy(update=settings), has_gpus=has_gpus) == needs


def test_how_many_jobs_a_node_has_room_for() -> None:
    assert Needs(gpus=0, cpus=2).fitting({"CPU": 5.0}) == 2
    assert Needs(gpus=1, cpus=1).fitting({"CPU": 16.0, "GPU": 4.0}) == 4
    assert Needs(gpus=0.1, cpus=1).fitting({"CPU": 16.0, "GPU": 1.0}) == 10
    assert Needs(gpus=1, cpus=1).fitting({"CPU": 16.0}) == 0
    assert str(Needs(gpus=0.5, cpus=2)) == "2 CPUs and 0.5 GPU"


def test_a_run_directory_arrives_whole_or_not_at_all(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here" / "3"
    (there / "checkpoints/step-1").mkdir(parents=True)
    (there / "checkpoints/step-1/model").write_bytes(os.urandom(PIECE + 7))
    (there / "empty").write_bytes(b"")
    (there / "link").symlink_to("/etc/passwd")
    here.mkdir(parents=True)
    (here / "old").write_text("before")
    sent = list(pieces(there))
    assert sorted((piece.name, len(piece.content)) for piece in sent) == [
        ("checkpoints/step-1/model", 7),
        ("checkpoints/step-1/model", PIECE),
        ("empty", 0),
    ]
    incoming = Incoming(here)
    incoming.add(sent[0])
    assert [path.name for path in here.iterdir()] == ["old"]
    incoming.discard()
    assert [path.name for path in here.parent.iterdir()] == ["3"]
    incoming = Incoming(here)
    for piece in sent:
        incoming.add(piece)
    incoming.finish()
    assert [path.name for path in here.parent.iterdir()] == ["3"]
    assert sorted(path.name for path in here.iterdir()) == ["checkpoints", "empty"]
    name = "checkpoints/step-1/model"
    assert (here / name).read_bytes() == (there / name).read_bytes()


@pytest.mark.parametrize("name", ["/tmp/x", "../x", "a/../../x", ""])
def test_no_file_arrives_outside_its_run_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeInputError):
        Incoming(tmp_path / "3").add(Piece(name, b"x"))
