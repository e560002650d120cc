"""``load(RUN).predict``: from what people hold to what ``trainctl predict`` writes, to the last bit."""

from __future__ import annotations

import copy
import csv
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy
import pandas
import polars
import pyarrow
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.helpers.scenes import numbers, write_scenes
from tests.helpers.trained import QUICK, TABLE, train_two, write_table
from trainctl import load
from trainctl.components.datasets.digits import digits
from trainctl.errors import ConfigError

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_two(tmp_path_factory.mktemp("trained"), "epochs=1", "model.hidden=[16]")


def written(trainctl, run: Path | str, source: str, output: str = "written.jsonl") -> Rows:
    """What the verb writes."""
    outcome = trainctl("predict", str(run), "--input", source, "--output", output, "--force")
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in Path(output).read_text().splitlines()]


def table_rows(name: str = "new.csv") -> Rows:
    with Path(name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {"width": float(row["width"]), "height": float(row["height"]), "colour": row["colour"]}
        for row in rows
    ]


FORMS = {
    "dicts": lambda rows: rows,
    "columns": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
    "pandas": pandas.DataFrame,
    "pandas with an index": lambda rows: pandas.DataFrame(rows, index=[f"r{n}" for n in range(len(rows))]),
    "polars": polars.DataFrame,
    "arrow": pyarrow.Table.from_pylist,
    "texts": lambda rows: [{key: str(value) for key, value in row.items()} for row in rows],
    "order": lambda rows: [dict(reversed(row.items())) for row in rows],
    "path": lambda rows: "new.csv",
    "Path": lambda rows: Path("new.csv"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", FORMS)
def test_rows_are_predicted_as_the_verb_does(form: str, trained: Path, trainctl, tmp_path: Path) -> None:
    write_table(tmp_path / "new.csv", 300, seed=5)
    text = (tmp_path / "new.csv").read_text()
    # Without the columns that the run did not take: there is nothing to warn of.
    lines = [",".join(line.split(",")[1:4]) for line in text.splitlines()]
    (tmp_path / "new.csv").write_text("\n".join(lines))
    found = load(trained / "table").predict(FORMS[form](table_rows()))
    assert found == written(trainctl, trained / "table", "new.csv")
    assert found[0].keys() == {"row", "prediction", "probabilities"}
    assert found[0]["probabilities"].keys() == {"no", "yes"}


def test_values_are_in_the_unit_of_the_data_with_every_kind_of_object(trained: Path, trainctl) -> None:
    table = "dataset.path=" + str(trained / "table.csv")
    words = [table if word.startswith("dataset.path") else word for word in TABLE]
    words += ["dataset.target=height", "loss=mse", "hydra.run.dir=values"]
    words[words.index("dataset.drop=[id]")] = "dataset.drop=[id,kind]"
    assert trainctl(*words, *QUICK, "threads=1").code == 0
    rows = [{"width": 0.5, "colour": "red"}, {"width": -1.0, "colour": "blue"}]
    Path("new.csv").write_text("width,colour\n0.5,red\n-1.0,blue\n")
    expected = written(trainctl, "values", "new.csv")
    assert all(20 < row["prediction"] < 80 for row in expected)
    model = load("values")
    assert model.predict(rows) == expected
    assert load("values", preprocess=True).predict(rows) == expected
    # The hook that gives the unit of the data is still there, and predict leaves it alone.
    codes = torch.tensor([[0.5, 2.0], [-1.0, 0.0]])
    as_module = load("values", preprocess=True)(codes).flatten().tolist()
    assert as_module == pytest.approx([row["prediction"] for row in expected], rel=1e-5)
    inputs = torch.randn(3, 4)
    before = model(inputs)
    model.predict(rows)
    assert torch.equal(model(inputs), before)


def test_arrays_tensors_and_images_are_predicted_as_the_verb_does(trained: Path, trainctl) -> None:
    raw = digits().test.inputs[:40]
    numpy.savez("new.npz", x=raw.numpy())
    expected = written(trainctl, trained / "images", "new.npz")
    model = load(trained / "images")
    for inputs in (raw, raw.numpy(), raw[:, 0], list(raw), "new.npz"):
        assert model.predict(inputs) == expected
    with pytest.warns(UserWarning, match="channels last"):
        assert model.predict(raw.permute(0, 2, 3, 1)) == expected
    for alone in (raw[0], raw[0, 0].numpy()):
        assert model.predict(alone)[0]["prediction"] == expected[0]["prediction"]
    assert model.predict(raw, batch_size=7)[39]["prediction"] == expected[39]["prediction"]


def test_pictures_are_read_as_files_are(trained: Path, trainctl) -> None:
    Path("pictures").mkdir()
    noise = numpy.random.default_rng(0).integers(0, 256, (6, 90, 70, 3), dtype=numpy.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(f"pictures/{number}.{'jpg' if number % 2 else 'png'}")
    expected = written(trainctl, trained / "images", "pictures")
    model = load(trained / "images")
    paths = sorted(Path("pictures").iterdir())
    names = [row.pop("file") for row in expected]
    opened = [Image.open(path) for path in paths]
    with pytest.warns(UserWarning, match="6 images of another size were resized to 8×8"):
        found = model.predict(opened)
    for image in opened:
        image.close()
    assert [path.name for path in paths] == names
    assert [row.pop("row") for row in found] == [1, 2, 3, 4, 5, 6]
    assert found == expected
    with pytest.warns(UserWarning, match="resized"):
        assert model.predict(paths[0])[0].pop("file") == names[0]
    image = Image.open(paths[0])
    image.load()
    with pytest.warns(UserWarning, match="resized"):
        (alone,) = model.predict(image)
    assert alone["probabilities"] == pytest.approx(expected[0]["probabilities"])
    assert image.size == (70, 90)


def test_masks_are_arrays_of_the_size_of_their_images(trainctl, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 30, 12)
    words = ("dataset=mask_folder", "dataset.path=scenes", "model=unet", "model.widths=[4,8]", *QUICK)
    assert trainctl(*words, "epochs=1", "hydra.run.dir=drawn").code == 0
    images = sorted(Path("scenes/images").iterdir())[:3]
    found = load("drawn").predict([Image.open(path) for path in images])
    for row, path in zip(found, images, strict=True):
        assert trainctl("predict", "drawn", "--input", str(path), "--output", "masks").code == 0
        assert numpy.array_equal(row["mask"], numbers(Path("masks") / path.name))
        with Path("masks/predictions.csv").open(newline="") as file:
            (line,) = csv.DictReader(file)
        shares = {key[6:]: float(value) for key, value in line.items() if key.startswith("share_")}
        assert row["shares"] == shares


def test_texts_and_several_inputs(trainctl, tmp_path: Path) -> None:
    lines = [
        f"{'good fine' if n % 2 else 'bad poor'} film {n},{'up' if n % 2 else 'down'}" for n in range(80)
    ]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *lines]))
    words = ("dataset=csv_text", "dataset.path=texts.csv", "model=embedding_bag", *QUICK)
    assert trainctl(*words, "epochs=2", "hydra.run.dir=texts").code == 0
    expected = written(trainctl, "texts", "texts.csv")
    texts = [line.partition(",")[0] for line in lines]
    assert load("texts").predict(texts) == expected
    assert load("texts").predict(pandas.DataFrame({"text": texts})) == expected


def test_what_is_wrong_is_said(trained: Path) -> None:
    model = load(trained / "table")
    good = {"width": 1.0, "height": 50.0, "colour": "red"}
    with pytest.raises(ConfigError, match="the table has no column width, which the run") as raised:
        model.predict([{"widht": 1.0, "height": 50.0, "colour": "red"}])
    assert "did you mean widht? there are: widht, height, colour" in str(raised.value.problems[0].remedy)
    with pytest.warns(UserWarning, match="ignored columns: weight"):
        assert len(model.predict([{**good, "weight": 3}])) == 1
    with pytest.warns(UserWarning, match=r"1 cell with a category that training did not have"):
        found = model.predict([good, {**good, "colour": "violet"}])
    assert [row.get("note") for row in found] == [None, "colour: 'violet' was not in training"]
    bad = model.predict([good, {**good, "width": "many"}])
    assert "prediction" in bad[0]
    assert re.search("'many' is not a number", bad[1]["error"])
    with pytest.raises(ConfigError, match="none of 1 rows could be predicted"):
        model.predict([{**good, "width": "many"}])
    with pytest.raises(ConfigError, match="columns of different lengths: 2 of width, 1 of height"):
        model.predict({"width": [1, 2], "height": [1], "colour": ["red"]})
    assert model.predict(pandas.DataFrame({"width": [], "height": [], "colour": []})) == []
    images = load(trained / "images")
    for inputs, said in (
        (torch.zeros(3, 1, 9, 9, dtype=torch.uint8), r"samples of shape \(1, 9, 9\), the run was trained on"),
        (torch.zeros(3, 1, 8, 8), "values of type float32, the run was trained on uint8"),
        ([good], "inputs are rows of a table, the run was trained on"),
        (object(), "inputs are no samples: object"),
        ("absent.png", "there is no such file"),
    ):
        with pytest.raises(ConfigError, match=said):
            images.predict(inputs)


def test_predict_leaves_the_module_as_it_was(trained: Path) -> None:
    model = load(trained / "images")
    raw = digits().test.inputs[:5]
    expected = model.predict(raw)
    names = list(model.state_dict())
    model.train()
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    assert model.predict(raw) == expected
    assert all(module.training for module in model.modules())
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (threads, precision)
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_modules()] == [
        name for name, _ in copy.deepcopy(model).named_modules()
    ]
    again = pickle.loads(pickle.dumps(model))
    assert again.predict(raw) == expected
    # The copy predicts with its own weights.
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    assert len(set(again.predict(raw)[0]["probabilities"].values())) == 1
    assert model.predict(raw) == expected


def test_a_models_own_predict_is_kept(trainctl, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "from trainctl.registry import MODELS\n\n\n"
        "@MODELS.register('own')\n"
        "class Own(nn.Sequential):\n"
        "    def __init__(self, output_size: int):\n"
        "        super().__init__(nn.Flatten(), nn.LazyLinear(output_size))\n\n"
        "    def predict(self, x):\n"
        "        return self(x).argmax(1)\n"
    )
    assert trainctl("plugins=[./own.py]", "model.name=own", "epochs=1", *QUICK, "hydra.run.dir=own").code == 0
    model: Any = load("own")
    assert isinstance(model.predict(torch.zeros(2, 1, 8, 8)), Tensor)
    whole = load("own", preprocess=True)
    assert isinstance(whole, nn.Module)
    assert whole.predict(digits().test.inputs[:2])[0].keys() == {"row", "prediction", "probabilities"}
