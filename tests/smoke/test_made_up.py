"""What is made up in the place of absent data is what the config asks for, and nothing leaves the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.lifecycles import built, lifecycle_of, trained
from trainctl.config.settings import Component
from trainctl.errors import MissingDataError
from trainctl.smoke.made_up import stand_ins
from trainctl.training.prepare_data import build_data


@pytest.mark.parametrize("name", ["csv", "parquet", "npz", "image_folder", "shards"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_absent_files_are_made_up_in_the_form_that_their_dataset_reads(
    tmp_path: Path, name: str, task: str
) -> None:
    if (name, task) == ("image_folder", "regression"):
        return
    arguments = {"path": "absent"}
    if name in ("csv", "parquet"):
        arguments |= {"target": "price", "drop": ["number"], "task": task}
    elif name == "npz":
        arguments |= {"inputs": "volumes", "targets": "labels", "task": task}
    elif name == "shards":
        arguments |= {"size": (8, 8), "task": task, "cache_dir": str(tmp_path)}
    common = {"val": 0.1, "split_seed": 0}
    dataset = Component("dataset", name, arguments, common)
    with pytest.raises(MissingDataError) as caught:
        build_data(dataset)
    made = next(stand_ins(dataset, caught.value, tmp_path))
    assert made.note == "made-up data in place of absent"
    path = made.words[0].partition("=")[2].strip("'")
    data = build_data(Component("dataset", name, {**arguments, "path": path}, common))
    assert data.task == task
    assert len(data.train) > 32


def test_absent_pictures_of_a_known_shape_are_synthetic() -> None:
    dataset = Component("dataset", "mnist", {"root": "absent"}, {"val": 5000, "split_seed": 0})
    with pytest.raises(MissingDataError) as caught:
        build_data(dataset)
    (made,) = stand_ins(dataset, caught.value, Path())
    assert made.note == "synthetic data in place of mnist"
    assert made.words[0] == "dataset=synthetic"
    assert "++dataset.shape=[1, 28, 28]" in made.words
    assert made.words[-1] == "++dataset.val=0.25"


# Each with a file that is not there.
ORDINARY = [
    ("dataset=csv", "loss=mse"),
    ("dataset=csv", "loss=mse", "model=linear", "train.metrics=[r2]"),
    ("dataset=csv", "loss=bce_with_logits"),
    ("dataset=npz", "loss=mse"),
    ("dataset=npz", "loss=soft_margin"),
    ("dataset=parquet", "loss=huber"),
    ("dataset=csv", "dataset.delimiter=;"),
    ("dataset=csv", "dataset.delimiter=tab", "dataset.encoding=utf-16", "dataset.missing=error"),
    ("dataset=csv", "dataset.delimiter=space", "dataset.skip_lines=2"),
    ("dataset=csv", "dataset.skip_lines=3"),
    ("dataset=csv", "dataset.header=false"),
    ("dataset=csv", "dataset.header=true", "dataset.task=classification"),
    ("dataset=csv", "dataset.target=12"),
    ("dataset=csv", "dataset.target=-9", "dataset.drop=[-1,id,4]"),
    ("dataset=csv", "dataset.drop=[7]", "dataset.header=false"),
    ("dataset=csv", "dataset.target=colour", "dataset.drop=[x1,2]"),
    ("dataset=parquet", "dataset.target=3", "dataset.drop=[1]"),
    ("dataset=csv", "dataset.test=500", "dataset.val=200"),
    ("dataset=npz", "dataset.test=500", "dataset.val=0"),
    ("dataset=csv", "dataset.test=0.01", "dataset.val=0.9"),
    ("dataset=csv", "dataset.test_path=other.csv"),
    ("dataset=npz", "dataset.test_inputs=later", "dataset.inputs=a", "dataset.targets=b"),
    ("dataset=csv", "train.accumulate=16"),
    ("dataset=npz", "train.accumulate=16"),
    ("dataset=image_folder", "train.accumulate=16", "dataset.size=[8,8]"),
    ("dataset=shards", "dataset.size=[8,8]"),
    (
        "dataset=shards",
        "loss=mse",
        "dataset.size=[8,8]",
        "dataset.target=price",
        "dataset.test_path=test-*.tar",
    ),
    ("dataset=shards", "dataset.path=s3://bucket/rows-*.parquet", "dataset.download=true"),
    ("dataset=mnist", "train.accumulate=50"),
    ("dataset=npz", "model=cnn"),
    ("dataset=npz", "model=lenet", "loss=cross_entropy"),
    ("dataset=csv", "model=sequential", "++model.layers=[{Linear:16},ReLU,{Linear:10}]"),
    ("dataset=csv", "loss.class_weights=[1,2]"),
    ("dataset=csv", "train.metrics=[{top_k_accuracy:{k:3}}]"),
    ("dataset=image_folder", "model=sequential", "++model.layers=[Flatten,{Linear:10}]"),
]


@pytest.mark.slow
@pytest.mark.parametrize("words", ORDINARY, ids=" ".join)
def test_an_ordinary_config_builds_without_its_data(tmp_path: Path, words: tuple[str, ...]) -> None:
    # As an experiment and as typed settings: these come after everything that smoke chooses.
    for number, (chosen, typed) in enumerate((([*words], ()), (words[:1], words[1:]))):
        if any("=" in each and "." not in each for each in typed):
            continue  # the choice of a component is no setting
        life, result = built(tmp_path / str(number), *chosen, settings=tuple(typed))
        assert (result.status, result.reason) == ("passed", "")
        assert life.notes
        config = life.built.data
        assert (
            len(config.train) >= life.composed.config.train.batch_size * life.composed.config.train.accumulate
        )


@pytest.mark.slow
def test_a_path_that_is_typed_may_be_absent(tmp_path: Path) -> None:
    _, result = built(tmp_path / "life", "dataset=csv", settings=("dataset.path=absent.csv",))
    assert result.status == "passed", result.reason


@pytest.mark.slow
def test_the_loss_decides_what_the_targets_are(tmp_path: Path) -> None:
    life, _ = built(tmp_path / "a", "dataset=csv", "loss=mse")
    assert life.built.data.task == "regression"
    life, _ = built(tmp_path / "b", "dataset=csv", "loss=bce_with_logits")
    values = life.built.data.train.targets
    assert 0 < float(values.min()) < float(values.max()) < 1
    life, _ = built(tmp_path / "c", "dataset=npz", "loss=cross_entropy")
    assert life.built.data.output_size == 3
    assert sorted(torch.unique(life.built.data.train.targets).tolist()) == [0, 1, 2]


NEEDS_30 = """
from torch import nn
from trainctl.registry import MODELS

@MODELS.register("needs_30")
class Needs30(nn.Sequential):
    def __init__(self, output_size: int) -> None:
        super().__init__(nn.Linear(30, output_size))
"""


@pytest.mark.slow
def test_a_form_that_nothing_says_is_skipped_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "needs.py").write_text(NEEDS_30)
    words = ("dataset=csv", "model.name=needs_30", "plugins=[./needs.py]")
    life, result = built(tmp_path / "life", *words)
    assert result.status == "skipped", result.reason
    assert "data.csv not found" in result.reason
    assert "nothing states its form" in result.reason
    assert "model=needs_30 does not take inputs of shape" in result.reason
    assert life.over == result.reason
    # A list of layers names the one that does not fit.
    layers = "++model.layers=[{Linear:{in_features:30,out_features:8}},ReLU,Linear]"
    _, result = built(tmp_path / "layers", "dataset=csv", "model=sequential", layers)
    assert result.status == "skipped", result.reason


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dataset=csv", "dataset.task=classification", "loss=mse"), "loss=mse does not fit"),
        (("dataset=csv", "dataset.target=a", "dataset.drop=[a]"), "both name"),
        (("dataset=csv", "dataset.delimiter=ab"), "must be one character"),
        (("dataset=csv", "dataset.encoding=nonsense"), "no such text encoding"),
        (("dataset=npz", "model=cnn", "model.kernel=4"), "must be odd"),
        (("dataset=image_folder", "loss=mse"), "loss=mse does not fit"),
    ],
)
@pytest.mark.slow
def test_what_no_data_could_make_right_fails(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    _, result = built(tmp_path / "life", *words)
    assert result.status == "failed"
    assert said in result.reason


def test_a_step_that_takes_more_samples_has_them(tmp_path: Path) -> None:
    life, result = built(tmp_path / "a", "dataset=digits", settings=("train.batch_size=64",))
    assert (result.status, len(life.built.data.train)) == ("passed", 64)
    life, result = built(tmp_path / "b", "train.accumulate=4", settings=("dataset.limit=16",))
    assert (result.status, len(life.built.data.train)) == ("passed", 32)


# ------------------------------------------------------------------ where things go


def test_mlflow_writes_into_the_folder_of_the_case(tmp_path: Path) -> None:
    (tmp_path / "conf" / "tracker").mkdir(parents=True)
    (tmp_path / "conf" / "local.yaml").write_text("tracker:\n  mlflow:\n    uri: http://team:5000\n")
    team = "team:\n  name: mlflow\n  uri: http://other:5000\n"
    (tmp_path / "conf" / "tracker" / "team.yaml").write_text(team)
    for name, label in (("mlflow", "mlflow"), ("team", "team")):
        folder = tmp_path / name
        life, _ = lifecycle_of(folder, f"tracker={name}", group="tracker")
        life.compose()
        assert life.composed.config.trackers[label].arguments["uri"] == f"sqlite:///{folder}/mlflow.db"
    typed = ("tracker.mlflow.uri=http://asked:5000",)
    life, _ = lifecycle_of(tmp_path / "typed", "tracker=mlflow", group="tracker", settings=typed)
    life.compose()
    assert life.composed.config.trackers["mlflow"].arguments["uri"] == "http://asked:5000"


# ------------------------------------------------------------------ one export for whom

OWN_TRANSFORM = """
import torch
from torch import nn
from trainctl.data import Data, Split
from trainctl.registry import DATASETS

class Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, inputs):
        return inputs + self.by

@DATASETS.register("shifted")
def shifted(by: float = 0.0) -> Data:
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    targets = (inputs.sum(1) > 0).long()
    return Data(name="shifted", task="classification", train=Split(inputs, targets), test=None,
                input_shape=(4,), output_size=2, transform=Shift(by), classes=("a", "b"))
"""


@pytest.mark.slow
def test_configs_share_an_export_where_the_program_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "shifted.py").write_text(OWN_TRANSFORM)
    shifted = ("dataset.name=shifted", "plugins=[./shifted.py]")
    alike = [("model=linear",), ("model=linear", "optim=sgd"), ("model=linear", "seed=3")]
    others = [
        ("model=mlp", "model.hidden=[8]"),
        ("model=mlp", "model.hidden=[9]"),
        ("model=linear", "dataset=synthetic"),
        ("model=linear", *shifted),
        ("model=linear", *shifted, "dataset.by=1.0"),
    ]
    kinds = [
        trained(tmp_path / str(number), *words)._export_key()
        for number, words in enumerate([*alike, *others])
    ]
    assert len(set(kinds[:3])) == 1
    assert len(set(kinds[2:])) == 1 + len(others)
