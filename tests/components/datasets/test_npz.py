"""Arrays in NumPy files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainctl.components.datasets.npz import npz
from trainctl.data import Data
from trainctl.errors import ConfigError, MissingDataError

RANDOM = np.random.default_rng(0)


def read(arrays: dict[str, Any], **arguments: Any) -> Data:
    np.savez("arrays.npz", **arrays)
    return npz("arrays.npz", **{"test": 0, **arguments})


def problem(arrays: dict[str, Any], **arguments: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        read(arrays, **arguments)
    (found,) = raised.value.problems
    return f"{found.message}\n{found.remedy}"


X = RANDOM.normal(3.0, 2.0, (6, 4))


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        ("x", "y"),
        ("X", "Y"),
        ("inputs", "targets"),
        ("images", "labels"),
        ("data", "labels"),
        ("x_train", "y_train"),
    ],
)
def test_usual_names_are_found(inputs: str, targets: str) -> None:
    data = read({targets: [0, 1, 0, 1, 0, 1], "other": [1], inputs: X})
    np.testing.assert_allclose(data.train.inputs.numpy(), X.astype(np.float32))
    assert data.train.targets.tolist() == [0, 1, 0, 1, 0, 1]
    assert f"{inputs} → {targets}" in data.note


def test_names_that_are_given() -> None:
    arrays = {"features": X, "goal": [0, 1, 0, 1, 0, 1], "x": X[:2]}
    assert len(read(arrays, inputs="features", targets="goal").train) == 6
    assert "did you mean dataset.inputs=features?" in problem(arrays, inputs="feature", targets="goal")
    said = problem(arrays, inputs="features")
    assert "no array with a usual name for targets" in said
    assert "there are: features, goal, x" in said


@pytest.mark.parametrize(
    ("targets", "task", "classes"),
    [
        (np.array([3, 5, 3, 10, 5, 3]), "classification", ("3", "5", "10")),
        (np.array([[1], [0], [1], [0], [1], [0]], dtype=np.uint8), "classification", ("0", "1")),
        (np.array([True, False] * 3), "classification", ("False", "True")),
        (np.array(["b", "a"] * 3), "classification", ("a", "b")),
        (np.array([1.0, 2.0] * 3), "regression", ()),
    ],
)
def test_targets_decide_the_task(targets: Any, task: str, classes: tuple[str, ...]) -> None:
    data = read({"x": X, "y": targets})
    assert (data.task, data.classes) == (task, classes)
    if classes:
        assert [classes[number] for number in data.train.targets] == [str(each) for each in targets.flatten()]
    else:
        assert data.train.targets.tolist() == [[1.0], [2.0]] * 3


def test_the_task_can_be_said() -> None:
    assert read({"x": X, "y": [1, 2, 3, 4, 5, 6]}, task="regression").train.targets.shape == (6, 1)
    assert read({"x": X, "y": [1.0, 2, 1, 2, 1, 2]}, task="classification").classes == ("1", "2")
    assert read({"x": X, "y": X[:, :3]}).output_size == 3


def test_bytes_are_divided_by_255_and_stay_bytes() -> None:
    images = RANDOM.integers(0, 256, (5, 3, 6, 7), dtype=np.uint8)
    data = read({"x": images, "y": [0, 1, 0, 1, 0]})
    assert data.train.inputs.dtype == torch.uint8
    assert data.input_shape == (3, 6, 7)
    assert data.fit is None
    np.testing.assert_allclose(data.transform(data.train.inputs).numpy(), images / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "swapped"),
    [
        ((5, 6, 7, 3), True),
        ((5, 8, 8, 1), True),
        ((5, 3, 6, 7), False),
        ((5, 3, 6, 3), False),
        ((5, 8, 3), False),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_channels_come_first(shape: tuple[int, ...], swapped: bool, dtype: Any) -> None:
    images = RANDOM.integers(0, 256, shape).astype(dtype)
    data = read({"x": images, "y": [0, 1, 0, 1, 0]})
    expected = np.moveaxis(images, 3, 1) if swapped else images
    np.testing.assert_array_equal(data.train.inputs.numpy(), expected)
    assert data.input_shape == expected.shape[1:]
    assert ("channels last → channels first" in data.note) == swapped


@pytest.mark.parametrize(
    ("shape", "together"), [((40, 5), (0,)), ((40, 3, 4, 5), (0, 2, 3)), ((40, 6, 5), (0, 1, 2))]
)
def test_numbers_are_standardized_by_the_training_split(
    shape: tuple[int, ...], together: tuple[int, ...]
) -> None:
    inputs = RANDOM.normal(7.0, 3.0, shape) * np.arange(1, shape[1] + 1).reshape(
        1, -1, *[1] * (len(shape) - 2)
    )
    data = read({"x": inputs, "y": RANDOM.normal(size=40)}, test=8)
    assert data.fit is not None
    assert data.test is not None
    transform = data.fit(data.train)
    outputs = transform(data.train.inputs)
    torch.testing.assert_close(
        outputs.mean(together), torch.zeros_like(outputs.mean(together)), atol=1e-5, rtol=0
    )
    deviation = outputs.std(together, correction=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation))
    assert transform(data.test.inputs).mean().abs() > 1e-4
    assert {name for name, _ in transform.named_buffers()} == {"mean", "std"}


def test_a_constant_feature_divides_by_nothing() -> None:
    inputs = X.copy()
    inputs[:, 2] = 0.1
    data = read({"x": inputs, "y": [0, 1, 0, 1, 0, 1]})
    assert data.fit is not None
    assert data.fit(data.train)(data.train.inputs)[:, 2].abs().max() < 1e-6


def test_test_arrays_of_the_file_are_used() -> None:
    arrays = {"x_train": X, "y_train": ["a", "b"] * 3, "x_test": X[:2], "y_test": ["b", "b"]}
    data = read(arrays, test=0.5)
    assert data.test is not None
    assert (len(data.train), data.test.targets.tolist()) == (6, [1, 1])
    assert "test from x_test" in data.note
    assert "c is not a class of the training data" in problem({**arrays, "y_test": ["c", "a"]})
    assert "without test targets" in problem({key: arrays[key] for key in ("x_train", "y_train", "x_test")})
    assert "samples of shape (3,)" in problem({**arrays, "x_test": X[:2, :3]})


def test_nothing_is_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (Path("sprung"),))

    for key in ("x", "y"):
        arrays = {"x": X, "y": np.arange(6), key: np.array([Trap()] * 6, dtype=object)}
        said = problem(arrays)
        assert f"arrays.npz, {key}: arrays of objects are not read" in said
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X, "y": [0, 1, 0]}, "3 targets for 6 inputs"),
        ({"x": X[:, 0], "y": [0, 1, 0, 1, 0, 1]}, "(samples, …), not (6,)"),
        ({"x": X[:0], "y": []}, "(samples, …), not (0, 4)"),
        ({"x": X, "y": np.zeros((6, 2, 2))}, "(N, outputs), not (6, 2, 2)"),
        ({"x": X, "y": np.eye(6, dtype=int)}, "targets.argmax(1)"),
        ({"x": X, "y": [1] * 6}, "every sample has the class 1"),
        ({"x": X, "y": [1.0, 2, np.nan, 4, 5, 6]}, "y[2]: nan is not finite"),
        ({"x": np.where(X[1, 2] == X, np.inf, X), "y": [0, 1] * 3}, "x[1, 2]: inf is not finite"),
        ({"x": np.where(X[1, 2] == X, 1e39, X), "y": [0, 1] * 3}, "x[1, 2]: 1e+39 is not finite in float32"),
        ({"x": X.astype(str), "y": [0, 1] * 3}, "inputs must be numbers, not <U"),
        ({"x": X, "y": X[:, 0] + 1j}, "must be numbers or strings, not complex128"),
    ],
)
def test_what_does_not_fit_is_said(arrays: dict[str, Any], said: str) -> None:
    assert said in problem(arrays)


def test_what_is_no_such_file() -> None:
    Path("text.npz").write_text("no arrays")
    with pytest.raises(ConfigError, match=r"text\.npz is not an \.npz file"):
        npz("text.npz")
    np.save("one.npy", X)
    with pytest.raises(ConfigError, match=r"one\.npy is not an \.npz file"):
        npz("one.npy")
    with pytest.raises(MissingDataError, match=r"arrays\.npz not found"):
        npz("arrays.npz")
    np.savez("arrays.npz", x=X, y=[0, 1] * 3)
    raw = bytearray(Path("arrays.npz").read_bytes())
    raw[160:170] = b"0123456789"
    Path("arrays.npz").write_bytes(raw)
    with pytest.raises(ConfigError, match="x"):
        npz("arrays.npz")
