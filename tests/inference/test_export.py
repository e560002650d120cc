"""Exporting: one file with the preprocessing inside, checked by its own library before it gets its name."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tests.helpers.runs import everything
from tests.helpers.trained import PLUGIN, PROGRAMS, QUICK, reference, train_on_tokens, train_two
from trainctl import load
from trainctl.components.datasets.digits import digits
from trainctl.data.tables.transform import TableTransform
from trainctl.inference import export as exporting
from trainctl.inference.trained_run import load_run
from trainctl.registry import plugins

SUFFIX = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, on the digits (with layers that act otherwise in training) and on a table."""
    words = ("model=cnn", "model.widths=[4]", "model.dropout=0.3", "epochs=1")
    return train_two(tmp_path_factory.mktemp("trained"), *words, table=("epochs=3",))


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path, dirs_exist_ok=True))


def consumed(path: str, raw: Tensor) -> Tensor:
    """The predictions of an exported file, without trainctl."""
    if path.endswith(".pt2"):
        return torch.export.load(path).module()(raw).detach()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"inputs": raw.numpy()})[0])


# ------------------------------------------------------------------ what is written


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.slow
def test_a_program_takes_raw_images_in_batches_of_any_size(trainctl, folder: Path, kind: str) -> None:
    before = everything(folder / "images")
    outcome = trainctl("export", "images", "--format", kind)
    assert outcome.code == 0, outcome.err
    assert everything(folder / "images") == before
    path = f"images{SUFFIX[kind]}"
    assert "takes raw samples (N, 1, 8, 8) uint8, gives probabilities (N, 10) float32" in outcome.out
    assert "largest difference" in outcome.out
    assert "on 256 samples of digits" in outcome.out
    assert outcome.out.splitlines()[-1].startswith(path)
    raw = digits().test.inputs
    for count in (1, 2, 5, 297):
        expected = reference("images", raw[:count])
        torch.testing.assert_close(consumed(path, raw[:count]), expected, rtol=0, atol=1e-5)
    # All of it lies in the one file, and none of the data it was checked with.
    found = sorted(each.name for each in folder.glob("[!.]*"))
    assert found == sorted([path, "images", "table", "table.csv"])
    assert not list(folder.glob(".images*"))
    assert (folder / path).stat().st_size < 400_000


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_takes_raw_rows_with_codes_and_missing_values(trainctl, folder: Path, kind: str) -> None:
    path = f"model{SUFFIX[kind]}"
    assert trainctl("export", "table", "--format", kind, "--output", path).code == 0
    raw = torch.tensor([[1.0, 50.0, 0.0], [torch.nan, 44.0, 2.0], [-1.0, torch.nan, torch.nan]])
    torch.testing.assert_close(consumed(path, raw), reference("table", raw), rtol=0, atol=1e-5)
    assert metadata(path)["classes"] == ["no", "yes"]
    assert metadata(path)["reading"]["columns"][2]["categories"] == ["blue", "green", "red"]


def metadata(path: str) -> dict[str, Any]:
    if path.endswith(".pt2"):
        extra = {"trainctl.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["trainctl.json"])
    import onnx

    stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return json.loads(stored["trainctl"])


def test_safetensors_hold_weights_and_what_is_needed_to_use_them(trainctl, folder: Path) -> None:
    outcome = trainctl("export", "table", "--format=safetensors")
    assert outcome.code == 0, outcome.err
    assert "largest difference 0.0e+00 on 40 samples of csv" in outcome.out
    with safe_open("table.safetensors", framework="pt") as stored:
        about = json.loads(stored.metadata()["trainctl"])
        weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no dictionary
    own = load("table").state_dict()
    assert set(weights) == set(own)
    assert all(torch.equal(weights[name], own[name]) for name in own)
    assert about["model"] == {"name": "mlp", "arguments": {**about["model"]["arguments"], "hidden": [8]}}
    assert about["classes"] == ["no", "yes"]
    assert [column["name"] for column in about["reading"]["columns"]] == ["width", "height", "colour"]
    assert about["transform"]["kind"] == "table"
    assert about["versions"]["torch"] == torch.__version__


def test_the_data_need_not_be_there(trainctl, folder: Path, trained: Path) -> None:
    config = folder / "table" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), "/nowhere"))
    outcome = trainctl("export", "table", "--format", "torch")
    assert outcome.code == 0, outcome.err
    assert "on 64 random samples (dataset=csv: /nowhere/table.csv not found" in outcome.out


@pytest.mark.parametrize("kind", ["safetensors", *PROGRAMS])
@pytest.mark.slow
def test_a_model_of_token_numbers(trainctl, tmp_path: Path, kind: str) -> None:
    ids = train_on_tokens(trainctl, tmp_path)
    path = f"run{SUFFIX[kind]}"
    for on_what in ("on 60 samples of tokens", "on 64 random samples (dataset=tokens cannot be built"):
        outcome = trainctl("export", "run", "--format", kind, "--force")
        assert outcome.code == 0, outcome.err
        assert on_what in outcome.out
        if kind != "safetensors":
            torch.testing.assert_close(consumed(path, ids), reference("run", ids), rtol=0, atol=1e-5)
        (tmp_path / "ids.npy").unlink(missing_ok=True)


def test_a_model_that_takes_nothing_that_is_made_up(trainctl, tmp_path: Path) -> None:
    train_on_tokens(trainctl, tmp_path)
    (tmp_path / "ids.npy").unlink()
    code = (tmp_path / "own.py").read_text()
    (tmp_path / "own.py").write_text(code.replace("self.table(inputs)", "self.table(inputs + 39)"))
    plugins._loaded.clear()
    outcome = trainctl("export", "run", "--format", "torch", "--trust-plugins")
    assert outcome.code == 2, outcome.err
    assert "model=embedding does not accept 64 random samples (dataset=tokens cannot be built" in outcome.err
    assert "put the training data where the run had it" in outcome.err
    assert not (tmp_path / "run.pt2").exists()


def test_what_was_trained_in_bf16_computes_in_float32(trainctl, folder: Path) -> None:
    assert trainctl("train.precision=bf16", "epochs=1", *QUICK, "hydra.run.dir=run").code == 0
    outcome = trainctl("export", "run", "--format", "torch")
    assert outcome.code == 0, outcome.err
    assert "trained in bf16: what is exported computes in float32" in outcome.out


# ------------------------------------------------------------------ what is refused


@pytest.mark.slow
def test_an_export_that_drops_the_preprocessing_is_found(
    trainctl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bare(exporting.Pipeline):
        def forward(self, inputs: Tensor) -> Tensor:
            return self.task.predict(self.model(inputs.float()))

    monkeypatch.setattr(exporting, "Pipeline", Bare)
    outcome = trainctl("export", "images", "--format", "torch", "--force")
    assert outcome.code == 1
    assert "the exported file's predictions differ from the run's by up to" in outcome.err
    assert not (folder / "images.pt2").exists()
    pytest.importorskip("onnxruntime")
    (folder / "images.onnx").write_bytes(b"before")
    assert trainctl("export", "images", "--format", "onnx", "--force").code == 1
    assert (folder / "images.onnx").read_bytes() == b"before"
    assert not list(folder.glob(".images*"))


def test_statistics_that_are_slightly_off_are_found(
    trainctl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exporting.make_transform
    stored = load_run("table").transform()

    def off(described: Any) -> nn.Module:
        transform = made(described)
        if isinstance(transform, TableTransform):
            transform.mean += 0.01
        return transform

    monkeypatch.setattr(exporting.Trained, "transform", lambda trained: stored)
    monkeypatch.setattr(exporting, "make_transform", off)
    outcome = trainctl("export", "table", "--format", "safetensors")
    assert outcome.code == 1
    assert "predictions differ" in outcome.err


OWN_MODEL = """
import torch
from torch import nn
from trainctl.registry import MODELS


@MODELS.register("branching")
class Branching(nn.Module):
    def __init__(self, input_shape, output_size):
        super().__init__()
        self.layer = nn.Linear(input_shape[0], output_size)

    def forward(self, inputs):
        outputs = self.layer(inputs)
        return outputs if float(outputs.detach().sum()) > 0 else 2 * outputs
"""


@pytest.mark.slow
def test_a_model_that_cannot_be_followed_is_refused_with_the_reason(trainctl, folder: Path) -> None:
    (folder / "own.py").write_text(PLUGIN + OWN_MODEL)
    words = ("plugins=[./own.py]", "dataset.name=own", "model.name=branching", "epochs=1", "batch_size=30")
    assert trainctl(*words, *QUICK, "hydra.run.dir=run").code == 0
    for kind in PROGRAMS:
        outcome = trainctl("export", "run", "--format", kind)
        assert outcome.code == 2, outcome.err
        assert f"--format {kind}: model=branching cannot be exported" in outcome.err
        assert len(outcome.err.splitlines()) == 2
    # Its weights can be stored, and its dataset makes the transform.
    assert trainctl("export", "run", "--format", "safetensors").code == 0
    assert not list(folder.glob(".run*"))


def test_a_model_in_plain_python_is_refused(trainctl, folder: Path) -> None:
    assert trainctl("model=scratch_mlp", "epochs=1", *QUICK, "hydra.run.dir=run").code == 0
    for kind in PROGRAMS:
        outcome = trainctl("export", "run", "--format", kind)
        assert outcome.code == 2
        assert "model=scratch_mlp is plain Python, which torch cannot trace" in outcome.err
    assert trainctl("export", "run", "--format", "safetensors").code == 0


def test_without_the_libraries_of_onnx_it_says_what_to_install(
    trainctl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else find(name, *rest)
    )
    outcome = trainctl("export", "images", "--format", "onnx")
    assert outcome.code == 2
    assert "onnxruntime is not installed" in outcome.err
    assert "pip install 'trainctl[onnx]'" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "export needs --format"),
        (("--format", "onxx"), "did you mean onnx?"),
        (("--format", "onnx", "--output", "model.pt"), "ends in .onnx"),
        (("--format", "onnx", "--output", "absent/model.onnx"), "there is no folder absent"),
    ],
)
def test_words_that_do_not_fit(trainctl, folder: Path, words: tuple[str, ...], message: str) -> None:
    outcome = trainctl("export", "images", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) <= 2


def test_a_difference_is_relative_to_what_is_large() -> None:
    expected = torch.tensor([[1000.0, 0.5]])
    assert exporting._difference(expected, expected + torch.tensor([[0.01, 0.0]])) == pytest.approx(
        1e-5, rel=0.01
    )
    assert exporting._difference(expected, expected + torch.tensor([[0.0, 0.01]])) == pytest.approx(0.01)
    assert not exporting._difference(expected, torch.full((1, 2), torch.nan)) <= exporting.TOLERANCE
    assert exporting._difference(expected, expected[:, :1]) == numpy.inf


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "name", ["../models/prod", "/tmp/prod", "a/b", "a\0b", "..", "a\nb", "\ud800", 300 * "n"]
)
def test_a_name_is_no_path(trainctl, tmp_path: Path, name: str) -> None:
    assert trainctl("epochs=1", "threads=1", "model=linear", "hydra.run.dir=run").code == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps({**record, "name": name}))
    before = {path for path in tmp_path.rglob("*") if "run" not in path.parts}
    outcome = trainctl("export", "run", "--format", "safetensors")
    assert outcome.code == 3
    assert {path for path in tmp_path.rglob("*") if "run" not in path.parts} == before


def test_a_file_is_replaced_only_when_told(trainctl, tmp_path: Path) -> None:
    assert trainctl("epochs=1", "threads=1", "model=linear", "hydra.run.dir=run").code == 0
    (tmp_path / "run.safetensors").write_text("precious")
    outcome = trainctl("export", "run", "--format", "safetensors")
    assert outcome.code == 2
    assert "run.safetensors exists" in outcome.err
    assert (tmp_path / "run.safetensors").read_text() == "precious"
    assert trainctl("export", "run", "--format", "safetensors", "--force").code == 0


def test_a_model_may_write_into_its_inputs(trainctl, tmp_path: Path) -> None:
    Path("p.py").write_text(
        f"{PLUGIN.replace('Centre(train.inputs)', 'nn.Identity()')}\nfrom trainctl.registry import MODELS\n"
        "@MODELS.register('writes')\nclass Writes(nn.Module):\n"
        "    def __init__(self, input_shape, output_size):\n"
        "        super().__init__()\n        self.layer = nn.Linear(input_shape[0], output_size)\n"
        "    def forward(self, inputs):\n        return self.layer(inputs.relu_().mul_(2))\n"
    )
    words = ("plugins=[p.py]", "dataset.name=own", "model.name=writes", "hydra.run.dir=run")
    assert trainctl("epochs=1", "threads=1", *words).code == 0
    outcome = trainctl("export", "run", "--format", "safetensors")
    assert outcome.code == 0, outcome.err
