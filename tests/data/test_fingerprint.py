"""The fingerprint of data: what differs is named, and taking it costs and changes nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from trainctl.data import Data, ItemSplit, Split
from trainctl.data import fingerprint as fingerprints
from trainctl.data.fingerprint import data_fingerprint, differences, fingerprint
from trainctl.errors import CheckpointError

INPUTS, TARGETS = torch.arange(40.0).reshape(20, 2), torch.arange(20) % 2


def made(inputs: Tensor = INPUTS, targets: Tensor = TARGETS, **changes: Any) -> Data:
    split = Split(inputs, targets)
    names = [{"name": "a"}, {"name": "b"}]
    data = Data("own", "classification", split, split[:5], (2,), 2, nn.Identity(), classes=("no", "yes"))
    data = replace(data, val=split[5:9], reading={"columns": names}, **changes)
    return replace(data, fingerprint=fingerprint(data))


def state(data: Data, **changes: Any) -> dict[str, Any]:
    described = {"reading": data.reading, "classes": list(data.classes), "fingerprint": data.fingerprint}
    return {"data": {**described, **changes}, "data_fingerprint": data_fingerprint(data, 0, 1)}


def other(values: Tensor, row: int, value: float) -> Tensor:
    values = values.clone()
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (made(), []),
        (made(INPUTS.clone()), []),
        (made(other(INPUTS, 19, 0)), ["other inputs in train"]),
        (made(-INPUTS), ["other inputs in train, val, test"]),
        (made(INPUTS.double()), ["other inputs in train, val, test"]),
        (made(INPUTS[:, [1, 0]]), ["other inputs in train, val, test"]),
        (made(targets=other(TARGETS, 6, 1)), ["other targets in train, val"]),
        (made(INPUTS[1:], TARGETS[1:]), ["19 samples in train, not 20", "other inputs in val, test",
                                        "other targets in val, test"]),
        (replace(made(), classes=("no", "maybe")), ["other classes (no, maybe instead of no, yes)"]),
        (replace(made(), reading={"columns": [{"name": "b"}, {"name": "a"}]}),
         ["other columns (b, a instead of a, b)"]),
    ],
)  # fmt: skip
def test_what_differs_is_named(data: Data, found: list[str]) -> None:
    assert differences(state(made()), data, data_fingerprint(made(), 0, 1)) == found
    assert differences(state(data), data) == []


def test_the_order_of_the_targets_is_compared_last() -> None:
    assert differences(state(made()), made(), "other") == ["another order of the samples in train"]


@pytest.mark.parametrize("damaged", [{"train": 5}, {"train": {"samples": 20}}, [1], "text"])
def test_a_damaged_fingerprint_is_a_damaged_checkpoint(damaged: Any) -> None:
    with pytest.raises(CheckpointError, match="description of its data is damaged"):
        differences(state(made(), fingerprint=damaged), made())


def test_of_large_tensors_samples_from_first_to_last_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_MOST_BYTES", 80)
    assert fingerprint(made())["train"] == fingerprint(made(other(INPUTS, 1, -1)))["train"]
    for row in range(0, 20, 2):
        assert fingerprint(made())["train"] != fingerprint(made(other(INPUTS, row, -1)))["train"]


def _load(item: int) -> Tensor:
    if item == 7:
        raise OSError("unreadable")
    return torch.rand(2) + random.random() + item


def test_of_samples_that_are_loaded_some_are_hashed_and_no_random_number_is_used() -> None:
    def digests(first: int, count: int = 100) -> Any:
        split = ItemSplit(range(first, first + count), torch.zeros(count), _load)
        data = Data("own", "regression", split, None, (2,), 1, nn.Identity())
        return fingerprint(data)["train"]

    def drawn() -> list[float]:
        return [random.random(), float(numpy.random.rand()), float(torch.rand(1))]

    torch.manual_seed(3)
    random.seed(3)
    numpy.random.seed(3)
    expected = drawn()
    torch.manual_seed(3)
    random.seed(3)
    numpy.random.seed(3)
    assert digests(10) == digests(10) != digests(11)
    assert drawn() == expected
    assert digests(0, 8)["inputs"] == ""  # the first epoch says what cannot be loaded


def test_any_type_of_tensor_has_a_digest() -> None:
    kinds = (torch.bool, torch.uint8, torch.bfloat16, torch.float64, torch.complex64)
    found = [fingerprint(made(INPUTS.to(kind)))["train"]["inputs"] for kind in kinds]
    sparse = fingerprint(made(INPUTS.T.contiguous().T.requires_grad_()))["train"]["inputs"]
    assert len({*found}) == len(kinds)
    assert sparse == made().fingerprint["train"]["inputs"]
    assert fingerprint(made(torch.empty(20, 0)))["train"]["inputs"]
