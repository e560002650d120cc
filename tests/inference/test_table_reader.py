"""Rows of a table for a trained model: pyarrow's way and the careful one give the same."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from trainctl.data.tables import pieces
from trainctl.inference.readers.tables import TableFile

NUMBER = {"kind": "number", "comma": False, "unit": "", "categories": []}
READING = {
    "kind": "table",
    "named": True,
    "width": 4,
    "missing": "mean",
    "missing_marks": None,
    "dtype": "float32",
    "targets": [{"name": "y"}],
    "columns": [
        {**NUMBER, "name": "a", "number": 1},
        {**NUMBER, "name": "b", "number": 2, "comma": True},
        {**NUMBER, "name": "c", "number": 3, "kind": "text", "categories": ["blue", "green, dark", "red"]},
    ],
}
ODD = [
    '1.5,2,"green, dark",0', "NA,n/a,,1", "x,1,red,0", "1,2", "1,2,red,0,9", "inf,3,blue,1", "1e39,3,blue,1",
    "007,1.234,red,1", "+5,-,pink,0", '"3","4","blue","1"', "", "1,2,\ufeffred,0", "1,2,re\u0301d,0",
    "1\u00a0,2,red,0", " 6 ,7\t, red ,1",
]  # fmt: skip


def read(path: Path, encoding: str, missing: str = "mean") -> tuple[list[Any], torch.Tensor, list[str]]:
    source = TableFile(path, {}, {**READING, "missing": missing}, {"encoding": encoding})
    found, errors = [], []
    for batch in source.batches(7):
        found.append(batch.inputs)
        errors += [(batch.names[place], why) for place, why in sorted(batch.errors.items())]
    return errors, torch.cat(found), source.remarks()


@pytest.mark.parametrize("missing", ["mean", "error"])
@pytest.mark.parametrize("quotes", ["none", "in cells", "unclosed"])
def test_both_ways_read_the_same(
    quotes: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_PIECE", 200)
    draw = random.Random(0)
    lines = ["a,b,c,y"]
    for number in range(300):
        plain = f"{draw.random():.4f},{number},{draw.choice(['red', 'blue'])},{number % 2}"
        lines.append(draw.choice(ODD) if draw.random() < 0.1 else plain)
    if quotes != "none":
        lines[150] = '1,2,"re""d' + '\nblue",0' * (quotes == "in cells")
    path = tmp_path / "new.csv"
    path.write_text("\n".join(lines))
    errors, inputs, remarks = read(path, "utf-8", missing)
    # Another name of the encoding takes the careful way.
    careful_errors, careful, careful_remarks = read(path, "utf_8", missing)
    assert len(errors) > 5
    assert errors == careful_errors
    assert remarks == careful_remarks
    assert torch.equal(inputs.nan_to_num(-1), careful.nan_to_num(-1))


def test_bytes_that_are_no_text_are_named_with_their_row(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_bytes(b"a,b,c,y\n1,2,red,0\n\xff,2,red,0\n3,4,blue,1\n")
    errors, inputs, _ = read(path, "utf-8")
    assert [row for row, _ in errors] == [2]
    assert inputs[:, 0].tolist() == [1, 3]
