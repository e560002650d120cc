"""Outputs and targets between the unit of the loss and that of the data."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from trainctl.data.readout import RAW, Readout
from trainctl.errors import ConfigError

FAR = Readout("value", [1e8, 0.0], [1.5, 2.0])


def test_without_a_scale_nothing_changes() -> None:
    outputs, targets = torch.randn(4, 3), torch.arange(4)
    assert all(a is b for a, b in zip(RAW.compared(outputs, targets), (outputs, targets), strict=True))
    assert RAW.prepared(targets) is targets
    assert RAW.prepared(outputs.double()).dtype == torch.float32
    assert (RAW.described(), RAW.digits) == (None, 9)


def test_what_float32_would_merge_is_kept_apart_and_comes_back() -> None:
    targets = torch.tensor([[1e8 + 0.25, 1.0], [1e8 + 0.5, 3.0]], dtype=torch.float64)
    assert len(set(targets[:, 0].float().tolist())) == 1
    scaled = FAR.prepared(targets)
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled, torch.tensor([[0.25 / 1.5, 0.5], [0.5 / 1.5, 1.5]]))
    outputs, back = FAR.compared(scaled, scaled)
    assert outputs.dtype == torch.float64
    torch.testing.assert_close(back, targets, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("log", [math.exp(-1), 1.0, math.exp(2)]),
        ("logit", [1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-2))]),
        ("sign", [math.tanh(-0.5), 0.0, math.tanh(1)]),
        ("score", [-1.0, 0.0, 2.0]),
    ],
)
def test_outputs_become_what_targets_are(output: str, expected: list[float]) -> None:
    outputs = torch.tensor([-1.0, 0.0, 2.0])
    torch.testing.assert_close(Readout(output)(outputs), torch.tensor(expected))
    assert Readout(output).is_comparable is (output != "score")


def test_an_unknown_kind_of_output_is_refused() -> None:
    with pytest.raises(ConfigError, match="output='odds', which is unknown"):
        Readout("odds")


def test_numbers_of_classes_stay_whole() -> None:
    readout = Readout("labels")
    assert readout.prepared(torch.tensor([[2.0, -1.0]], dtype=torch.float64)).dtype == torch.int64
    assert readout.prepared(torch.tensor([[0.5]], dtype=torch.float64)).dtype == torch.float32


def test_a_description_gives_the_same_scale_to_the_last_bit() -> None:
    scale = Readout("value", [0.1 + 0.2, 1 / 3], [math.pi, 1e-300])
    again = Readout.made("value", json.loads(json.dumps(scale.described())))
    assert again.described() == scale.described()
    whole = Readout("value", 0.1, 0.7)
    assert Readout.made("value", whole.described()).described() == {"mean": 0.1, "std": 0.7}
    assert (whole.fits(5), scale.fits(2), scale.fits(1)) == (True, True, False)


@pytest.mark.parametrize(
    "damaged",
    [
        3,
        [],
        {"mean": [0.0]},
        {"mean": [0.0], "std": [0.0]},
        {"mean": [0.0], "std": [-1.0]},
        {"mean": [0.0], "std": [math.nan]},
        {"mean": [0.0], "std": ["1"]},
        {"mean": [0], "std": [1.0]},
        {"mean": [0.0, 1.0], "std": [1.0]},
        {"mean": 0.0, "std": [1.0]},
        {"mean": [[0.0]], "std": [[1.0]]},
        {"mean": None, "std": None},
        {"mean": "x", "std": "y"},
    ],
)
def test_a_damaged_description_is_refused(damaged: Any) -> None:
    with pytest.raises(ValueError, match="no usable scale of the targets"):
        Readout.made("value", damaged)


def test_programs_compute_in_float32_where_that_has_the_digits() -> None:
    assert FAR.for_programs()(torch.zeros(1, 2)).dtype == torch.float64
    near = Readout("value", [20.0], [5.0]).for_programs()
    assert near(torch.zeros(1, 1)).dtype == torch.float32
    assert Readout("value", [20.0], [5.0]).digits == 10
    assert FAR.digits == 17
