"""Parquet, Arrow and JSON through Hugging Face's library: columns by name, images, and no connection."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from tests.helpers.runs import EVERY, WORDS, killed_after, same_end
from trainctl.components.datasets.digits import digits
from trainctl.config.settings import Component
from trainctl.data import Data
from trainctl.errors import ConfigError, MissingDataError
from trainctl.training.prepare_data import build_data

library = pytest.importorskip("datasets")
pytestmark = pytest.mark.slow  # its import takes seconds
ROWS = {"train": 60, "test": 20}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf")

    connect = socket.socket.connect

    def refused(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, "a connection"  # that of data workers
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refused)


def png(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((image[0].numpy() * 15).astype("uint8")).save(buffer, "PNG")
    return buffer.getvalue()


def table(split: str, rows: int) -> dict[str, list[Any]]:
    source: Any = getattr(digits(), split)
    labels = source.targets[:rows].tolist()
    return {
        "image": [{"bytes": png(image), "path": None} for image in source.inputs[:rows]],
        "label": labels,
        "parity": [("even", "odd")[label % 2] for label in labels],
        "ink": [float(image.float().mean()) for image in source.inputs[:rows]],
        "number": list(range(10**9, 10**9 + rows)),
        "row": [image[0, 3].tolist() for image in source.inputs[:rows]],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images with labels in Parquet, as such datasets are exported."""
    for split, rows in ROWS.items():
        place = tmp_path / "exported" / "data" / f"{split}-00000-of-00001.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.table(table(split, rows)), place)
    return tmp_path / "exported"


def read(path: Path, **arguments: Any) -> Data:
    common = {"val": 0.25, "split_seed": 0}
    return build_data(Component("dataset", "hf", {"path": str(path), **arguments}, common))


def test_images_of_a_folder_of_parquet_are_the_images(folder: Path) -> None:
    data = read(folder, size=(8, 8), channels=1)
    assert (data.task, data.output_size, data.input_shape) == ("classification", 10, (1, 8, 8))
    assert (len(data.train), len(data.val or ()), len(data.test or ())) == (45, 15, 20)
    source: Any = digits().test
    test: Any = data.test
    for index in range(20):
        assert torch.equal(test.load(index), (source.inputs[index] * 15).to(torch.uint8))
    assert torch.equal(test.targets, source.targets[:20])
    assert "image (not used: parity, ink, number, row) → label" in data.note


def test_columns_are_chosen_by_name(folder: Path) -> None:
    data = read(folder, inputs=["ink", "number"], target="parity")
    assert data.classes == ("even", "odd")
    train: Any = data.train
    raw = torch.stack([train.load(item) for item in train.items])
    inputs = data.transform(raw)
    assert inputs.dtype == torch.float32
    assert torch.allclose(inputs.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(inputs.std(0, unbiased=False), torch.ones(2), atol=1e-5)
    assert inputs[:, 1].unique().numel() == len(inputs)  # float32 alone would take them for one number
    values = read(folder, inputs=["row"], target="ink", test=0)
    assert (values.task, values.input_shape) == ("regression", (8,))
    several = read(folder, inputs=["image", "ink"], size=(8, 8))
    assert several.input_shape == {"image": (3, 8, 8), "numbers": (1,)}


def test_arrow_json_and_saved_datasets_are_read_too(folder: Path, tmp_path: Path) -> None:
    rows = {key: value for key, value in table("train", 30).items() if key != "image"}
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps(dict(zip(rows, row, strict=True))) + "\n" for row in zip(*rows.values(), strict=True)
        )
    )
    whole = library.Dataset.from_dict(rows)
    whole = whole.cast_column("label", library.ClassLabel(names=list("abcdefghij")))
    whole.save_to_disk(tmp_path / "saved")
    named = read(tmp_path / "saved", inputs=["ink"], test=5)
    assert (named.classes, len(named.test or ())) == (tuple("abcdefghij"), 5)
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    given = [read(path, inputs=["ink"]) for path in (tmp_path / "rows.jsonl", arrow)]
    for data in given:
        assert torch.equal(data.train.targets, given[0].train.targets)


def test_what_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"inputs": ["imag"]}, "dataset.inputs=imag: there is no such column"),
        ({"inputs": ["parity"]}, "column parity is"),
        ({"target": "lable"}, "dataset.target=lable"),
        ({"target": "image"}, "neither a class nor values"),
        ({"target": "parity", "task": "regression"}, "is text"),
        ({"hub": "some/name"}, "needs a file or a name"),
    ]
    for arguments, says in wrong:
        with pytest.raises(ConfigError, match=says):
            read(folder, **arguments)
    with pytest.raises(MissingDataError, match="not found"):
        read(tmp_path / "absent.parquet")
    (tmp_path / "rows.csv").write_text("a,label\n1,2\n")
    with pytest.raises(ConfigError, match=r"has \.csv files"):
        read(tmp_path / "rows.csv")
    holes = pyarrow.table({"a": [1.0, None, 3.0], "label": [0, 1, None]})
    parquet.write_table(holes, tmp_path / "holes.parquet")
    with pytest.raises(ConfigError, match=r"train\[2\] has no target in column label"):
        read(tmp_path / "holes.parquet")
    parquet.write_table(holes.slice(0, 2), tmp_path / "hole.parquet")
    with pytest.raises(ConfigError, match="row 1: column a has no value"):
        read(tmp_path / "hole.parquet")
    broken = pyarrow.table({"image": [b"no image", b"at all"], "label": [0, 1]})
    parquet.write_table(broken, tmp_path / "broken.parquet")
    with pytest.raises(ConfigError, match=r"train\[\d\] cannot be loaded"):
        read(tmp_path / "broken.parquet")


def test_the_hub_is_not_asked_without_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ConfigError, match=r"dataset\.hub=some/name") as caught:
        build_data(Component("dataset", "hf", {"hub": "some/name"}, {"val": 0, "split_seed": 0}))
    assert "dataset.download=true" in caught.value.problems[0].remedy


def test_a_run_on_it_is_carried_on_used_and_exported(
    folder: Path, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    words = (
        "dataset=hf",
        f"dataset.path={folder}",
        "dataset.size=[8,8]",
        "batch_size=12",
        "loader.workers=2",
    )
    assert trainctl(*words, *WORDS[2:], "epochs=3", *EVERY).code == 0
    cut = killed_after(tmp_path / "run", 5)
    assert trainctl("resume", str(cut), "loader.workers=0").code == 0
    assert same_end(tmp_path / "run", cut, 15)
    assert "the same as recorded" in trainctl("eval", "run").out
    (tmp_path / "new").mkdir()
    Image.fromarray(numpy.zeros((20, 20), dtype="uint8")).save(tmp_path / "new" / "one.png")
    assert trainctl("predict", "run", "--input", "new", "--output", "found.csv").code == 0
    assert trainctl("export", "run", "--format", "torch", "--output", "model.pt2").code == 0
    assert trainctl("smoke", *words[:3]).code == 0
