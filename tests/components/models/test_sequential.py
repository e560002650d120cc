"""A model written as a list of layers: sizes that follow are inferred, what cannot be is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trainctl.components.models.sequential import Sequential
from trainctl.errors import ConfigError

IMAGE = (3, 8, 8)


def build(layers: list[Any], shape: tuple[int, ...] = IMAGE, outputs: int = 10) -> Sequential:
    return Sequential(shape, outputs, layers)


def test_a_convolutional_network_is_the_one_written_by_hand() -> None:
    """Same layers, same parameters for the same seed, same outputs."""
    layers = [
        {"Conv2d": {"out_channels": 8, "kernel_size": 3, "padding": 1}},
        "BatchNorm2d",
        "ReLU",
        {"MaxPool2d": 2},
        "Flatten",
        {"Dropout": 0.25},
        {"Linear": 16},
        {"GELU": None},
        "Linear",
    ]
    torch.manual_seed(0)
    ours = build(layers)
    torch.manual_seed(0)
    theirs = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(128, 16),
        nn.GELU(),
        nn.Linear(16, 10),
    )
    assert str(ours).partition("(")[2] == str(theirs).partition("(")[2]
    assert ours.training
    inputs = torch.randn(4, *IMAGE)
    torch.manual_seed(1)
    expected = theirs(inputs)
    torch.manual_seed(1)
    assert torch.equal(ours(inputs), expected)


@pytest.mark.parametrize(
    ("layers", "shape", "attribute", "value"),
    [
        ([{"Linear": 4}], (7,), "in_features", 7),
        ([{"Linear": 4}], (2, 7), "in_features", 7),
        ([{"Conv1d": {"out_channels": 4, "kernel_size": 3}}], (5, 9), "in_channels", 5),
        ([{"Conv2d": {"out_channels": 4, "kernel_size": 3}}], IMAGE, "in_channels", 3),
        ([{"Conv3d": {"out_channels": 4, "kernel_size": 1}}], (2, 4, 4, 4), "in_channels", 2),
        ([{"ConvTranspose2d": {"out_channels": 4, "kernel_size": 2}}], IMAGE, "in_channels", 3),
        (["BatchNorm1d"], (7,), "num_features", 7),
        (["BatchNorm2d"], IMAGE, "num_features", 3),
        (["InstanceNorm2d"], IMAGE, "num_features", 3),
        ([{"GroupNorm": 3}], IMAGE, "num_channels", 3),
        (["LayerNorm"], IMAGE, "normalized_shape", (3, 8, 8)),
    ],
)
def test_the_size_of_an_input_is_inferred(
    layers: list[Any], shape: tuple[int, ...], attribute: str, value: Any
) -> None:
    assert getattr(build(layers, shape)[0], attribute) == value


def test_inference_follows_the_data_through_the_list() -> None:
    model = build(
        [
            {"Conv2d": {"out_channels": 6, "kernel_size": 3, "stride": 2}},
            {"GroupNorm": 2},
            {"AdaptiveAvgPool2d": [2, 1]},
            "Flatten",
            {"Unflatten": {"dim": 1, "unflattened_size": [3, 4]}},
            "LayerNorm",
            "Flatten",
            "Linear",
        ]
    )
    assert model[7].in_features == 12
    assert model(torch.randn(5, *IMAGE)).shape == (5, 10)


@pytest.mark.parametrize(
    ("layers", "attribute"),
    [
        (["Flatten", "Linear"], "out_features"),
        (["Flatten", {"Linear": {"bias": False}}], "out_features"),
        ([{"Conv2d": {"kernel_size": 8}}], "out_channels"),
    ],
)
def test_the_last_size_comes_from_the_data(layers: list[Any], attribute: str) -> None:
    assert getattr(build(layers, outputs=17)[-1], attribute) == 17


def test_a_last_size_that_is_given_is_kept() -> None:
    assert build(["Flatten", {"Linear": 5}], outputs=17)[-1].out_features == 5


@pytest.mark.parametrize(
    ("entry", "attribute", "value"),
    [
        ({"Linear": 5}, "out_features", 5),
        ({"Dropout": 0.3}, "p", 0.3),
        ({"MaxPool2d": [2, 4]}, "kernel_size", (2, 4)),
        ({"LeakyReLU": 0.2}, "negative_slope", 0.2),
        ({"Flatten": 2}, "start_dim", 2),
        ({"AvgPool2d": {"kernel_size": 2, "stride": 1}}, "stride", 1),
    ],
)
def test_a_bare_value_is_the_main_argument(entry: Any, attribute: str, value: Any) -> None:
    assert getattr(build([entry])[0], attribute) == value


BAD: list[tuple[Any, str]] = [
    ("Linaer", "did you mean Linear"),
    ("Sequential", "torch.nn has no such layer"),
    ("ModuleList", "torch.nn has no such layer"),
    ("CrossEntropyLoss", "torch.nn has no such layer"),
    ("LazyLinear", "torch.nn has no such layer"),
    ("functional", "torch.nn has no such layer"),
    ("Module", "torch.nn has no such layer"),
    ("torch.nn.Linear", "torch.nn has no such layer"),
    ("", "torch.nn has no such layer"),
    ({3: 4}, "torch.nn has no such layer"),
    (3, "not a layer"),
    (None, "not a layer"),
    (True, "not a layer"),
    (["Linear", 3], "not a layer"),
    ({}, "not a layer"),
    ({"Linear": 3, "ReLU": None}, "not a layer"),
    ({"Linear": {"out_feature": 3}}, "did you mean out_features"),
    ({"Linear": {"wide": True}}, "Linear takes: in_features"),
    ({"Identity": 3}, "takes no arguments"),
    ({"Identity": {"a": 3}}, "Identity takes no arguments"),
    ("Linear", "out_features is missing"),
    ({"Conv2d": 8}, "kernel_size is missing"),
    ("MaxPool2d", "kernel_size is missing"),
    ({"Linear": "wide"}, "Linear"),
    ({"Linear": 2.5}, "Linear"),
    ({"Linear": -1}, "Linear"),
    ({"Linear": [3, 4]}, "Linear"),
    ({"Dropout": 2}, "dropout probability"),
    ({"Dropout": "half"}, "Dropout"),
    ({"GroupNorm": 2}, "divisible"),
    ({"GroupNorm": 0}, "GroupNorm"),
    ({"Hardtanh": {"min_val": 2, "max_val": 1}}, "Hardtanh"),
    ({"Linear": {"in_features": 5, "out_features": 3}}, "does not fit its input of shape (3, 8, 8)"),
    ({"Conv2d": {"out_channels": 3, "kernel_size": 20}}, "does not fit its input of shape (3, 8, 8)"),
    ("BatchNorm1d", "does not fit its input of shape (3, 8, 8)"),
    ({"Flatten": 7}, "does not fit its input of shape (3, 8, 8)"),
    ({"Unflatten": {"dim": 1, "unflattened_size": [2, 2]}}, "does not fit its input"),
    ({"Embedding": {"num_embeddings": 4, "embedding_dim": 2}}, "does not fit its input"),
    ({"MultiheadAttention": {"embed_dim": 8, "num_heads": 2}}, "does not fit its input"),
    ({"MaxPool2d": {"kernel_size": 2, "return_indices": True}}, "returns several"),
]


@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize(("entry", "says"), BAD, ids=[str(entry) for entry, _ in BAD])
def test_a_bad_entry_is_named_with_its_place_in_the_list(entry: Any, says: str, position: int) -> None:
    with pytest.raises(ConfigError) as caught:
        build([*["Identity"] * position, entry, "Identity"])
    (problem,) = caught.value.problems
    assert problem.message.startswith(f"model.layers[{position}]")
    assert says in f"{problem.message} {problem.remedy}"
    assert "\n" not in problem.message


def test_a_layer_after_all_dimensions_are_gone_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.layers\[1\]"):
        build([{"Flatten": {"start_dim": 0}}, "Linear"])


def test_the_entries_are_not_changed() -> None:
    layers: list[Any] = ["Flatten", {"Linear": {"bias": False}}]
    build(layers)
    assert layers == ["Flatten", {"Linear": {"bias": False}}]


def test_looking_at_sizes_leaves_no_trace_in_running_statistics() -> None:
    model = build(["BatchNorm2d", "Flatten", "Linear"])
    assert model[0].num_batches_tracked == 0
    assert torch.equal(model[0].running_mean, torch.zeros(3))
    assert all(layer.training for layer in model)
