"""Synthetic data of any size."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from trainctl.data import Data, Split, Standardize
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS, Count, NonNegative, Seed


@DATASETS.register("synthetic")
def synthetic(
    task: Literal["classification", "regression", "multilabel"] = "classification",
    samples: Count = 2000,
    test_samples: Count = 500,
    shape: list[Count] = [20],  # noqa: B006 - read only; a list is what a config gives
    outputs: Count = 10,
    noise: NonNegative = 0.1,
    data_seed: Seed = 0,
    targets: Literal["values", "binary", "counts", "sign", "labels", "shares"] = "values",
) -> Data:
    """Synthetic data that can be learned: a random linear map of normal inputs, plus noise.

    The class is the map's largest output; for regression, the outputs are the targets; a label is there where
    its output is above 0.

    Args:
        task: what the targets are.
        samples: number of samples to train and validate on.
        test_samples: number of samples to test on.
        shape: one input's shape, e.g. [20] or [3,32,32].
        outputs: number of classes, of labels, or of values to predict.
        noise: standard deviation of the noise, as a share of the signal's.
        data_seed: another seed makes other data.
        targets: the values that a regression predicts, for losses of certain values: values, any; binary, 1
            for a value above 0, else 0; counts, whole numbers from 0; sign, 1 or -1; labels, the numbers of
            the outputs above 0, padded with -1; shares, values from 0 to 1 that sum to 1.

    Shape: inputs (N, *shape) float32; targets (N,) int64, or (N, outputs) float32, int64 for labels.
    """
    if task == "classification" and outputs < 2:
        raise ConfigError(f"dataset.outputs={outputs}: classification needs at least 2 classes")
    if task == "classification" and targets != "values":
        raise ConfigError(
            f"dataset.targets={targets}: the targets of a classification are class numbers",
            "add dataset.task=regression",
        )
    if task == "multilabel":
        if targets not in ("values", "binary"):
            raise ConfigError(f"dataset.targets={targets}: labels are 0 or 1", "add dataset.task=regression")
        targets = "binary"
    generator = torch.Generator().manual_seed(data_seed)
    size, total = math.prod(shape), samples + test_samples
    inputs = torch.randn(total, size, generator=generator)
    weight = torch.randn(size, outputs, generator=generator) / math.sqrt(size)
    values = inputs @ weight + noise * torch.randn(total, outputs, generator=generator)
    made = values.argmax(1) if task == "classification" else _targets(values, targets)
    inputs = inputs.reshape(total, *shape)
    return Data(
        name="synthetic",
        task=task,
        train=Split(inputs[:samples], made[:samples]),
        test=Split(inputs[samples:], made[samples:]),
        input_shape=tuple(shape),
        output_size=outputs,
        transform=Standardize(),
        classes=tuple(str(number) for number in range(outputs)) if task == "classification" else (),
        note="made up",
    )


def _targets(values: Tensor, kind: str) -> Tensor:
    above = values > 0
    if kind == "labels":
        order = above.int().argsort(dim=1, descending=True, stable=True)
        return order.where(above.gather(1, order), -1)
    if kind == "shares":
        return values.softmax(1)
    if kind == "counts":
        return values.clamp(max=3).exp().floor()
    return {"values": values, "binary": above.float(), "sign": above.float() * 2 - 1}[kind]
