"""A run goes on with the data it was trained on, or says what differs: every verb, every kind of dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image

from tests.helpers.runs import (
    EVERY,
    STEPS,
    TABLE,
    everything,
    killed_after,
    metrics,
    record,
    saved,
    state,
    weights,
    write_table,
)

PLUGINS = """
from pathlib import Path

import torch
from trainctl.data import Data, ItemSplit, Split, Standardize
from trainctl.registry import DATASETS

@DATASETS.register("own")
def own() -> Data:
    split = Split(torch.arange(80.0).reshape(40, 2) * factor(), torch.arange(40) % 2)
    return Data("own", "classification", split, None, (2,), 2, Standardize())

@DATASETS.register("items")
def items() -> Data:
    split = ItemSplit(range(60), torch.arange(60) % 2, load)
    return Data("items", "classification", split, None, (2,), 2, Standardize())

def load(item):
    return torch.rand(2) * factor() + item

def factor():
    return float(Path("factor").read_text())
"""


def swap_columns(path: Path, names: str = "c,a,b,label") -> None:
    """Write the same table with its columns in another order."""
    header, *rows = (line.split(",") for line in path.read_text().splitlines())
    order = [header.index(name) for name in names.split(",")]
    path.write_text("".join(",".join(row[index] for index in order) + "\n" for row in [header, *rows]))


def csv(change: bool) -> tuple[str, ...]:
    write_table(Path("table.csv"))
    if change:
        Path("table.csv").write_text(Path("table.csv").read_text().replace("\n6,", "\n-600,"))
    return TABLE


def npz(change: bool) -> tuple[str, ...]:
    numbers = numpy.random.default_rng(0).random((60, 3))
    numpy.savez("data.npz", x=numbers[:, [0, 2, 1]] if change else numbers, y=numpy.arange(60) % 2)
    return ("dataset=npz", "dataset.path=data.npz", "batch_size=16")


def images(change: bool) -> tuple[str, ...]:
    for number in range(16):
        folder = Path("pics", "light" if number % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = numpy.full((8, 8), number * 7 + 3 * change, numpy.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return (
        "dataset=image_folder",
        "dataset.path=pics",
        "dataset.size=[8,8]",
        "batch_size=8",
        "dataset.val=4",
    )


def own(change: bool) -> tuple[str, ...]:
    Path("own.py").write_text(PLUGINS)
    Path("factor").write_text("2" if change else "1")
    return ("plugins=[./own.py]", "dataset.name=own", "batch_size=16")


def items(change: bool) -> tuple[str, ...]:
    return (*own(change), "dataset.name=items", "loader.workers=0")


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", [csv, npz, images, items, own])
def test_other_inputs_are_refused_by_every_verb_for_every_kind_of_dataset(
    trainctl, tmp_path: Path, kind: Callable[[bool], tuple[str, ...]]
) -> None:
    """The targets are the same: those alone were compared once."""
    words = (*kind(False), "epochs=2", "threads=1", "model=linear", *EVERY)
    assert trainctl(*words).code == 0
    cut = killed_after(tmp_path / "run", 1)
    before = {**everything(cut), "record": record(cut)}
    kind(True)
    for verb in ("resume", "eval"):
        outcome = trainctl(verb, "cut", "--trust-plugins")
        assert outcome.code == 2, outcome.err
        assert "the training data is not what the run was trained on: other inputs in " in outcome.err
        assert "--allow-change" in outcome.err
    outcome = trainctl("verify", "cut", "--trust-plugins")
    assert outcome.code == 1
    assert "differs, first in: data: other inputs in train" in outcome.out
    after = {**everything(cut), "record": record(cut)}
    left = [name for name in before if Path(name).name not in ("run.json", "train.log", ".lock")]
    assert [before[name] for name in left] == [after[name] for name in left]

    outcome = trainctl("resume", "cut", "--trust-plugins", "--allow-change", "display.mode=plain")
    assert outcome.code == 0, outcome.err
    for said in (outcome.out, (cut / "train.log").read_text()):
        assert "changed: the data: other inputs in train" in said
    assert record(cut)["resumed"]["data"][0].startswith("other inputs in train")
    # From here on it is the run's data, in the statistics that the run began with.
    assert trainctl("eval", "cut", "--trust-plugins", "--checkpoint", "last").code == 0
    assert trainctl("resume", "cut", "--trust-plugins", "train.epochs=3").code == 0
    first, last = (state(cut, step)["data"] for step in (saved(cut)[0], saved(cut)[-1]))
    assert first["transform"] == last["transform"]
    assert first["fingerprint"] != last["fingerprint"]


@pytest.mark.slow
def test_exchanged_columns_of_a_file_are_found_by_name(trainctl, tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv")
    assert trainctl(*TABLE, *EVERY).code == 0
    cut = killed_after(tmp_path / "run", 4)
    first = killed_after(tmp_path / "run", STEPS, "first")
    swap_columns(tmp_path / "table.csv")
    assert trainctl("resume", "cut").code == 0
    assert metrics(cut) == metrics(tmp_path / "run")
    assert weights(cut)[-1] == weights(tmp_path / "run")[-1]
    assert "to the last digit" in trainctl("eval", "run").out
    assert trainctl("verify", "run").code == 0
    # A new run from its weights has them where they were, too.
    words = (*TABLE, "epochs=1", "display.mode=plain", "hydra.run.dir=second", f"init_from={first}")
    outcome = trainctl(*words)
    assert outcome.code == 0, outcome.err
    assert "trained on other data" not in outcome.out
    (tmp_path / "table.csv").rename(tmp_path / "swapped.csv")
    write_table(tmp_path / "table.csv")
    assert trainctl(*words[:-2], "hydra.run.dir=third", words[-1]).code == 0
    assert metrics(tmp_path / "second") == metrics(tmp_path / "third")


def test_a_run_that_starts_from_the_weights_of_other_data_says_so(trainctl, tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv")
    assert trainctl(*TABLE, "display.mode=none", "hydra.run.dir=run").code == 0
    text = (tmp_path / "table.csv").read_text().replace("a,b,c", "x,b,c").replace(",b\n", ",z\n")
    (tmp_path / "table.csv").write_text(text)
    outcome = trainctl(*TABLE, "display.mode=plain", "hydra.run.dir=other", "init_from=run")
    assert outcome.code == 0, outcome.err
    said = (
        "init_from=run was trained on other data: other columns (x, b, c instead of a, b, c); other classes"
    )
    assert said in outcome.out
    assert said in (tmp_path / "other/train.log").read_text()


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("dataset.drop=[b]", "dataset.drop=[b]: the model has that input"),
        ("dataset.keep=[d]", "dataset.keep=[d]: the model has no such input"),
        ("dataset.categories=[a]", "dataset.categories=[a]: the model was trained on its numbers"),
        ("dataset.task=regression", "dataset.task=regression: the model was trained for classification"),
        (
            "dataset.missing_marks=[x]",
            "dataset.missing_marks=['x']: the model was trained with the usual ones",
        ),
    ],
)
def test_settings_that_the_columns_of_the_run_contradict_are_refused(
    trainctl, tmp_path: Path, word: str, said: str
) -> None:
    """Columns are those of the training: another choice would not be heard."""
    write_table(tmp_path / "table.csv")
    assert trainctl(*TABLE, "epochs=1", "display.mode=none", "hydra.run.dir=run").code == 0
    for verb in (("resume", "run", "epochs=2", "--allow-change"), ("eval", "run")):
        outcome = trainctl(*verb, word)
        assert outcome.code == 2
        assert said in outcome.err


def test_only_the_split_that_is_evaluated_has_to_be_the_same(trainctl, tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv")
    write_table(tmp_path / "test.csv")
    assert trainctl(*TABLE, "dataset.test_path=test.csv", "display.mode=none", "hydra.run.dir=run").code == 0
    write_table(tmp_path / "table.csv", shift=1)
    assert "to the last digit" in trainctl("eval", "run").out
    assert trainctl("eval", "run", "--split", "val").code == 2
    outcome = trainctl("eval", "run", "--split", "all")
    assert outcome.code == 2
    assert "not what the run was trained on" in outcome.err
    write_table(tmp_path / "test.csv", shift=1)
    outcome = trainctl("eval", "run", "--json")
    assert outcome.code == 2
    assert "not what the run was trained on: other targets in test" in outcome.err
    outcome = trainctl("eval", "run", "--allow-change")
    assert outcome.code == 0
    assert "other targets in test" in outcome.out
    assert "to the last digit" not in outcome.out
