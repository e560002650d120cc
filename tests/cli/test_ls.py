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


NET = """
from trainctl.registry import LOSSES, MODELS

@MODELS.register("my_net")
def my_net(input_shape, output_size, width: int = 8, depth: int = 2):
    '''A net of my own.'''

@LOSSES.register("my_loss")
def my_loss(margin: float):
    '''A loss of my own.'''
"""


def test_what_a_plugin_has_is_listed_with_its_arguments(trainctl, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    outcome = trainctl("ls", "plugins=[./net.py]", "model=my_net", "loss")
    assert outcome.code == 0, outcome.err
    assert "model.name=my_net\n  A net of my own." in outcome.out
    assert "model.depth  2  a whole number" in " ".join(outcome.out.split(" ")).replace("   ", "  ")
    assert "A loss of my own." in outcome.out
    assert trainctl("ls", "plugins=[./absent.py]", "model").code == 2


def test_an_option_whose_component_is_a_plugin_of_the_folder(trainctl, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/local.yaml").write_text("plugins: [./net.py]\n")
    (tmp_path / "conf/model/my_net.yaml").write_text("# @package model\n# Mine\nname: my_net\nwidth: 16\n")
    out = trainctl("ls", "model=my_net").out
    assert "A net of my own." in out
    assert [line.split() for line in out.splitlines() if "model." in line] == [
        ["model.width", "16", "a", "whole", "number"],
        ["model.depth", "2", "a", "whole", "number"],
        ["model.freeze", "[]", "a", "list", "in", "which", "each", "item", "is", "text"],
    ]


def test_tasks_are_listed_with_what_chooses_them(trainctl) -> None:
    assert "  autoencoder " in trainctl("ls", "task").out
    assert "task\n" in trainctl("ls").out
    shown = trainctl("ls", "task=autoencoder").out
    assert shown.startswith("dataset.as_task=autoencoder\n")


def test_a_short_key_is_explained_with_its_value(trainctl, tmp_path: Path) -> None:
    assert trainctl("ls", "lr").out == "lr\n  short for optim.lr, which is 0.001 by default\n"
    assert "short for train.batch_size, which is 64" in trainctl("ls", "batch_size").out
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "local.yaml").write_text("optim:\n  lr: 0.5\n")
    assert "which is 0.5 by default" in trainctl("ls", "lr").out
