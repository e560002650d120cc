"""Arrays in NumPy files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trainctl.data import Data, Split, Standardize
from trainctl.data.arrays import Array, Arrays, to_inputs, to_targets
from trainctl.data.files import find_file
from trainctl.data.sample_values import are_labels
from trainctl.data.tables.transform import Affine, column_statistics
from trainctl.data.types import split_rows
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
    task: Literal["auto", "classification", "regression", "multilabel"] = "auto",
    test: Fraction | NonNegativeInt = 0.2,
    test_seed: NonNegativeInt = 0,
) -> Data:
    """Arrays of your own in a file that numpy.savez wrote. Nothing in it is unpickled.

    Images of shape (N, H, W, C) become (N, C, H, W), and the header says so; other shapes are kept. uint8 is
    divided by 255; other numbers are standardized with the training split's mean and deviation: per feature
    for (N, F), per channel for (N, C, H, W), over all values for other shapes.

    Args:
        path: the file.
        inputs: the array of inputs; null takes the first there is of x, X, inputs, images, data, x_train …
        targets: the array of targets; null takes the first there is of y, Y, targets, labels, y_train …
        test_inputs: the array to test on; null takes x_test, test_images …, if there is one.
        test_targets: its targets; null takes y_test, test_labels …, if there is one.
        task: what the targets are. auto: whole-number types, booleans and strings are classes; floats are
            values; several of 0 and 1 only a sample, of any type, are labels.
        test: samples to hold out for the test where the file has no test arrays, a count or a fraction; 0
            for none.
        test_seed: chooses the samples of ``test``.

    Shape: inputs (N, …) of their stored type (float64 becomes float32), targets (N,) int64, or (N, outputs)
    float64.

    Raises:
        ConfigError: for another kind of file, arrays of objects, arrays that do not fit together, NaN.
        MissingDataError: when the file is not there.
    """
    file = find_file("npz", "path", path, task)
    arrays = Arrays(file)
    names = arrays.choose("inputs", inputs, _INPUTS), arrays.choose("targets", targets, _TARGETS)
    given = _read(arrays, names)
    given_test = _read_test(arrays, test_inputs, test_targets, given)
    classes = _classes(file, names[1], given.targets, meant := _task(task, given.targets))
    train, held = Split(given.inputs, _encode(file, given, classes)), None
    if given_test is not None:
        held = Split(given_test.inputs, _encode(file, given_test, classes))
    else:
        kept_rows, held_rows = split_rows(len(train), test, test_seed)
        train, held = train[kept_rows], None if held_rows is None else train[held_rows]
    pixels = train.inputs.dtype == torch.uint8
    return Data(
        name="npz",
        task=meant,
        train=train,
        test=held,
        input_shape=tuple(train.inputs.shape[1:]),
        output_size=len(classes) or int(train.targets.shape[1]),
        transform=Standardize(scale=255.0) if pixels else nn.Identity(),
        fit=None if pixels else _fit,
        classes=classes,
        note=_note(file, given, given_test, pixels),
    )


class _Arrays(NamedTuple):
    """Inputs and targets by the names of their arrays; ``swapped``: channels were moved to the front."""

    names: tuple[str, str]
    inputs: Tensor
    targets: Array
    swapped: bool


def _note(file: Path, given: _Arrays, given_test: _Arrays | None, pixels: bool) -> str:
    parts = [
        file.name,
        " → ".join(given.names),
        "channels last → channels first" if given.swapped else "",
        "divided by 255" if pixels else "standardized",
        f"test from {given_test.names[0]}" if given_test else "",
    ]
    return "; ".join(filter(None, parts))


def _read(arrays: Arrays, names: tuple[str, str]) -> _Arrays:
    inputs, swapped = to_inputs(arrays.file, names[0], arrays.read(names[0]))
    targets = to_targets(arrays.file, names[1], arrays.read(names[1]), len(inputs))
    return _Arrays(names, inputs, targets, swapped)


def _read_test(
    arrays: Arrays, test_inputs: str | None, test_targets: str | None, train: _Arrays
) -> _Arrays | None:
    """The test arrays, if the file has any."""
    names = (
        arrays.choose("test_inputs", test_inputs, _TEST_INPUTS, optional=True),
        arrays.choose("test_targets", test_targets, _TEST_TARGETS, optional=True),
    )
    if bool(names[0]) != bool(names[1]):
        found, absent = ("inputs", "targets") if names[0] else ("targets", "inputs")
        raise ConfigError(
            f"{arrays.file}: test {found} without test {absent}",
            "name both, dataset.test_inputs= and dataset.test_targets=",
        )
    if not names[0]:
        return None
    test = _read(arrays, names)
    if test.inputs.shape[1:] != train.inputs.shape[1:]:
        raise ConfigError(
            f"{arrays.file}: {names[0]} has samples of shape {tuple(test.inputs.shape[1:])},"
            f" {train.names[0]} of shape {tuple(train.inputs.shape[1:])}",
            "test samples must have the shape of training samples",
        )
    return test


def _task(asked: str, targets: Array) -> str:
    if asked != "auto":
        return asked
    if targets.dtype.kind != "U" and are_labels(torch.from_numpy(targets.astype(np.float64))):
        return "multilabel"
    return "regression" if targets.dtype.kind == "f" else "classification"


def _classes(file: Path, name: str, targets: Array, task: str) -> tuple[str, ...]:
    """The names of the classes, in order; none for other targets."""
    textual = targets.dtype.kind == "U"
    if task != "classification":
        if textual:
            raise ConfigError(
                f"dataset.task={task} requires numbers: {file}, {name} holds text",
                "use dataset.task=classification",
            )
        return ()
    if targets.ndim != 1:
        raise ConfigError(
            f"{file}, {name}: classes must have the shape (N,), not {targets.shape}",
            "save targets.argmax(1), or use dataset.task=regression or multilabel",
        )
    distinct = np.unique(targets)
    if targets.dtype.kind == "f" and (distinct != distinct.round()).any():
        raise ConfigError(
            f"dataset.task=classification requires whole numbers or text: {file}, {name} has fractions",
            "use dataset.task=regression",
        )
    if len(distinct) < 2:
        raise ConfigError(
            f"{file}, {name}: every sample has the class {_label(distinct[0])}; two classes are required"
        )
    return tuple(_label(value) for value in distinct)


def _encode(file: Path, given: _Arrays, classes: tuple[str, ...]) -> Tensor:
    """Class numbers (N,) int64, or values or labels (N, outputs) float64."""
    targets = given.targets
    if not classes:
        values = torch.from_numpy(targets.astype(np.float64))
        return values.unsqueeze(1) if values.dim() == 1 else values
    number = {label: index for index, label in enumerate(classes)}
    distinct, codes = np.unique(targets, return_inverse=True)
    foreign = [_label(value) for value in distinct if _label(value) not in number]
    if foreign:
        raise ConfigError(
            f"{file}, {given.names[1]}: {foreign[0]} is not a class of the training data",
            f"there are: {', '.join(classes)}",
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
