"""The phase `predict` reads the files that people have: tables and pictures among them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.lifecycles import trained
from trainctl.inference import readers as inputs_module
from trainctl.inference.readers import arrays, images, tables
from trainctl.smoke import predicting
from trainctl.smoke.predicting import check_predictions

HEADER = "length;width;ok;colour;name;kind\n"
ROWS = "".join(
    f"{number / 7:.3f}".replace(".", ",")
    + f";{number % 5 or 'NA'};{'true' if number % 2 else 'false'}"
    + f";{('red', 'light; blue', '')[number % 3]};{number};{('x', 'y')[number % 2]}\n"
    for number in range(80)
)


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of files that predictions are read from, while they are."""
    kinds: list[str] = []

    def noting(*arguments: Any) -> Any:
        source = inputs_module.open_source(*arguments)
        kinds.append(type(source).__name__)
        return source

    monkeypatch.setattr(predicting, "open_source", noting)
    return kinds


def table(header: str = HEADER, above: str = "", encoding: str = "utf-8") -> Callable[[], None]:
    text = above + header + ROWS.replace("light; blue", '"light; blue"')
    return lambda: Path("data.csv").write_bytes(text.encode(encoding))


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("make", "words", "kind"),
    [
        (table(), ("dataset=csv", "dataset.drop=[name]"), "TableFile"),
        (table(header=""), ("dataset=csv", "dataset.drop=[5]"), "TableFile"),
        (
            table(above="a title\n\n", encoding="utf-16"),
            ("dataset=csv", "dataset.skip_lines=2", "dataset.encoding=utf-16", "dataset.delimiter=;"),
            "TableFile",
        ),
        (table(), ("dataset=csv", "dataset.target=1", "loss=mse", "dataset.drop=[2]"), "TableFile"),
        (None, ("dataset=csv",), "TableFile"),
        (None, ("dataset=parquet", "loss=mse"), "TableFile"),
        pytest.param(None, ("dataset=digits",), "ImageFiles", marks=pytest.mark.slow),
        pytest.param(
            None, ("dataset=image_folder", "dataset.size=[9,7]"), "ImageFiles", marks=pytest.mark.slow
        ),
        (None, ("dataset=image_folder", "dataset.size=[8,8]", "dataset.channels=1"), "ImageFiles"),
        pytest.param(None, ("dataset=npz", "loss=mse"), "ArrayFile", marks=pytest.mark.slow),
        pytest.param(None, ("dataset=synthetic",), "ArrayFile", marks=pytest.mark.slow),
        (None, ("dataset=synthetic", "++dataset.shape=[3,8,8]"), "ArrayFile"),
    ],
)
def test_samples_are_read_from_a_file_of_their_kind(
    make: Callable[[], None] | None,
    words: tuple[str, ...],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if make is not None:
        make()
    kinds = opened(monkeypatch)
    life = trained(tmp_path / "life", *words)
    assert check_predictions(life.trained, tmp_path / "life") is None
    assert kinds == [kind, kind]


@pytest.mark.slow
def test_a_table_that_is_read_otherwise_than_in_training_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = trained(tmp_path / "life", "dataset=csv")
    encode = tables.encode
    monkeypatch.setattr(
        tables,
        "encode",
        lambda columns, names, **rest: encode(columns, [each[::-1] for each in names], **rest),
    )
    found = check_predictions(life.trained, tmp_path / "life")
    assert found is not None
    assert "in samples.csv is predicted as" in found
    assert "the same sample in memory as" in found


@pytest.mark.slow
def test_images_that_are_read_otherwise_than_in_training_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = trained(tmp_path / "life", "dataset=digits")
    load = images.ImageFiles._load
    monkeypatch.setattr(images.ImageFiles, "_load", lambda self, name: load(self, name).flip(2))
    found = check_predictions(life.trained, tmp_path / "life")
    assert found is not None
    assert "in samples is predicted as" in found


@pytest.mark.slow
def test_arrays_that_are_read_otherwise_than_in_training_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = trained(tmp_path / "life", "dataset=synthetic")
    batch = arrays.ArrayFile._batch
    monkeypatch.setattr(arrays.ArrayFile, "_batch", lambda self, start, rows: batch(self, start, rows * 2))
    found = check_predictions(life.trained, tmp_path / "life")
    assert found is not None
    assert "in samples.npz is predicted as" in found
