"""What `ls` lists is what can be typed."""

from __future__ import annotations

from pathlib import Path

from trainctl.config.options import find_options

FILES = {
    "conf/experiment/vision/a.yaml": "# @package _global_\n# Pictures of all kinds\nseed: 1\n",
    "conf/model/wide/mlp.yaml": "# @package model\n# A wide one\nname: mlp\nhidden: [512]\n",
    "conf/experiment/.hidden/copy.yaml": "# @package _global_\nseed: 1\n",
    "conf/hydra/launcher/far.yaml": "a: 1\n",
    "conf/notes.yaml": "a: 1\n",
}


def test_options_in_sub_folders_are_listed_and_can_be_typed(trainctl, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    listed = trainctl("ls", "experiment", "model").out
    assert "  vision/a " in listed
    assert "Pictures of all kinds" in listed
    assert "  wide/mlp " in listed
    assert "A wide one" in listed
    assert not [each for each in ("  copy ", "  far ", "  notes ") if each in trainctl("ls").out]
    arguments = trainctl("ls", "model=wide/mlp").out
    assert "model.hidden" in arguments
    assert "512" in arguments
    wrong = trainctl("ls", "experiment=vision/b")
    assert wrong.code == 2
    assert "did you mean experiment=vision/a?" in wrong.err
    quick = ("epochs=1", "threads=1", "display.mode=none")
    assert trainctl("experiment=vision/a", "model=wide/mlp", *quick).code == 0


def test_groups_do_not_come_out_of_hydras_own_folder() -> None:
    assert not [group for group in find_options() if "hydra" in group]


def test_a_file_that_nests_without_end_is_listed(trainctl, tmp_path: Path) -> None:
    (tmp_path / "conf/optim").mkdir(parents=True)
    for text in ("# Mine\nname: adam\nlr: " + "[" * 900 + "]" * 900, "# Mine\nlr: " + "1" * 5000):
        (tmp_path / "conf/optim/own.yaml").write_text(text)
        assert "Mine" in trainctl("ls", "optim").out
        assert trainctl("ls", "optim=own").code == 0
