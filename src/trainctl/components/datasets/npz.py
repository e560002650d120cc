"""Arrays in NumPy files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainctl.data import Data, Split, Standardize
from trainctl.data.arrays import Array, Arrays, to_inputs, to_targets
from trainctl.data.files import find_file
from trainctl.data.tables.table import split_rows
from trainctl.data.tables.transform import Affine, column_statistics
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS, Fraction, NonNegativeInt

_INPUTS = ("x", "X", "inputs", "images", "data", "x_train", "X_train", "train_images")
_TARGETS = ("y", "Y", "targets", "labels", "y_train", "Y_train", "train_labels")
_TEST_INPUTS = ("x_test", "X_test", "test_x", "inputs_test", "test_inputs", "images_test", "test_images")
_TEST_TARGETS = ("y_test", "Y_test", "test_y", "targets_test", "test_targets", "labels_test", "test_labels")


@DATASETS.register("npz")
def npz(
    path: str,
    inputs: str | None = None,
    targets: str | None = None,
    test_inputs: str | None = None,
    test_targets: str | None = None,
    task: Literal["auto", "classification", "regression"] = "auto",
    test: Fraction | NonNegativeInt = 0.2,
    test_seed: NonNegativeInt = 0,
) -> Data:
    """Arrays of your own in a file that numpy.savez wrote. Nothing in it is unpickled.

    Shapes are kept, but images of shape (N, H, W, C) become (N, C, H, W), and the header says so. uint8 is
    divided by 255; other numbers are standardized by mean and deviation of the training split: of each
    feature for (N, F), of each channel for (N, C, H, W), of all values together for other shapes.

    Args:
        path: the file.
        inputs: the array of inputs; null takes the first there is of x, X, inputs, images, data, x_train …
        targets: the array of targets; null takes the first there is of y, Y, targets, labels, y_train …
        test_inputs: the array to test on; null takes x_test, test_images …, if there is one.
        test_targets: its targets; null takes y_test, test_labels …, if there is one.
        task: what the targets are. auto: whole-number types, booleans and strings are classes; floats are
            values.
        test: samples to hold out for the test where the file has no test arrays, a count or a fraction; 0
            for none.
        test_seed: chooses the samples of ``test``.

    Shape: inputs (N, …) of their stored type (float64 becomes float32), targets (N,) int64, or (N, outputs)
    float32.

    Raises:
        ConfigError: for what is no such file, arrays of objects, arrays that do not belong together, NaN.
        MissingDataError: when the file is not there.
    """
    file = find_file("npz", "path", path, task)
    with Arrays(file) as arrays:
        names = (
            arrays.choose("inputs", inputs, _INPUTS),
            arrays.choose("targets", targets, _TARGETS),
        )
        features, swapped = to_inputs(file, names[0], arrays.read(names[0]))
        raw_targets = to_targets(file, names[1], arrays.read(names[1]), len(features))
        test_names = (
            arrays.choose("test_inputs", test_inputs, _TEST_INPUTS, optional=True),
            arrays.choose("test_targets", test_targets, _TEST_TARGETS, optional=True),
        )
        if bool(test_names[0]) != bool(test_names[1]):
            raise ConfigError(
                f"{file}: test {'inputs' if test_names[0] else 'targets'} without test"
                f" {'targets' if test_names[0] else 'inputs'}",
                f"name both, dataset.test_inputs= and dataset.test_targets=; it holds {arrays.names}",
            )
        test_arrays = None
        if test_names[0]:
            test_features, _ = to_inputs(file, test_names[0], arrays.read(test_names[0]))
            test_arrays = (
                test_features,
                to_targets(file, test_names[1], arrays.read(test_names[1]), len(test_features)),
            )
    if test_arrays and test_arrays[0].shape[1:] != features.shape[1:]:
        raise ConfigError(
            f"{file}: {test_names[0]} has samples of shape {tuple(test_arrays[0].shape[1:])},"
            f" {names[0]} of shape {tuple(features.shape[1:])}",
            "test samples have the shape of training samples",
        )
    classes = _classes(file, names[1], raw_targets, task)
    encoded = _encode(file, names[1], raw_targets, classes)
    held = None
    if test_arrays:
        train = Split(features, encoded)
        held = Split(test_arrays[0], _encode(file, test_names[1], test_arrays[1], classes))
    else:
        kept_rows, held_rows = split_rows(len(features), test, test_seed)
        train = Split(features[kept_rows], encoded[kept_rows])
        held = Split(features[held_rows], encoded[held_rows]) if held_rows is not None else None
    pixels = features.dtype == torch.uint8
    said = [
        file.name,
        f"{names[0]} → {names[1]}",
        "channels last → channels first" if swapped else "",
        "divided by 255" if pixels else "standardized",
        f"test from {test_names[0]}" if test_arrays else "",
    ]
    return Data(
        name="npz",
        task="classification" if classes else "regression",
        train=train,
        test=held,
        input_shape=tuple(features.shape[1:]),
        output_size=len(classes) or int(encoded.shape[1]),
        transform=Standardize(scale=255.0) if pixels else nn.Identity(),
        fit=None if pixels else _fit,
        classes=classes,
        note="; ".join(filter(None, said)),
    )


def _classes(file: Path, name: str, targets: Array, task: str) -> tuple[str, ...]:
    """The names of the classes, in order; none for regression."""
    textual = targets.dtype.kind == "U"
    if task == "auto":
        task = "regression" if targets.dtype.kind == "f" else "classification"
    if task == "regression":
        if textual:
            raise ConfigError(
                f"dataset.task=regression: {file}, {name} holds text", "use dataset.task=classification"
            )
        return ()
    if targets.ndim != 1:
        raise ConfigError(
            f"{file}, {name}: shape {targets.shape}, where a class has one number",
            "save targets.argmax(1), or use dataset.task=regression",
        )
    distinct = np.unique(targets)
    if targets.dtype.kind == "f" and (distinct != distinct.round()).any():
        raise ConfigError(
            f"dataset.task=classification: {file}, {name} holds numbers that are not whole",
            "use dataset.task=regression",
        )
    if len(distinct) < 2:
        raise ConfigError(
            f"{file}, {name}: every sample has the class {_label(distinct[0])}", "two classes are the least"
        )
    return tuple(_label(value) for value in distinct)


def _encode(file: Path, name: str, targets: Array, classes: tuple[str, ...]) -> Tensor:
    """Class numbers (N,) int64, or values (N, outputs) float32."""
    if not classes:
        values = torch.from_numpy(targets.astype(np.float32))
        return values.unsqueeze(1) if values.dim() == 1 else values
    number = {label: index for index, label in enumerate(classes)}
    distinct, codes = np.unique(targets, return_inverse=True)
    foreign = [_label(value) for value in distinct if _label(value) not in number]
    if foreign:
        raise ConfigError(
            f"{file}, {name}: {foreign[0]} is no class of the training data",
            f"there are {', '.join(classes)}",
        )
    table = torch.tensor([number[_label(value)] for value in distinct], dtype=torch.int64)
    return table[torch.from_numpy(codes.astype(np.int64))]


def _label(value: Any) -> str:
    return str(value) if isinstance(value, str | np.bool_) else str(int(value))


def _fit(train: Split) -> nn.Module:
    inputs = train.inputs
    if inputs.dim() == 2:
        return Affine(*column_statistics(inputs))
    if inputs.dim() == 4:
        channels = inputs.shape[1]
        mean, std = column_statistics(inputs.transpose(0, 1).reshape(channels, -1).T)
        return Affine(mean.view(channels, 1, 1), std.view(channels, 1, 1))
    mean, std = column_statistics(inputs.reshape(-1, 1))
    return Affine(mean, std)


__all__ = ["npz"]
