"""Made-up data of any size."""

from __future__ import annotations

import math
from typing import Literal

import torch

from trainctl.data import Data, Split, Standardize
from trainctl.errors import ConfigError
from trainctl.ranges import Count, NonNegative, Seed
from trainctl.registry import DATASETS


@DATASETS.register("synthetic")
def synthetic(
    task: Literal["classification", "regression"] = "classification",
    samples: Count = 2000,
    test_samples: Count = 500,
    shape: list[Count] = [20],  # noqa: B006 - read only; a list is what a config gives
    outputs: Count = 10,
    noise: NonNegative = 0.1,
    data_seed: Seed = 0,
) -> Data:
    """Made-up data that can be learned: a random linear map of normal inputs, plus noise.

    For classification the class is the largest of the map's outputs, for regression the outputs are the
    targets.

    Args:
        task: what the targets are.
        samples: how many to train and validate on.
        test_samples: how many to test on.
        shape: one input's shape, e.g. [20] or [3,32,32].
        outputs: number of classes, or of values to predict.
        noise: standard deviation of the noise, as a share of the signal's.
        data_seed: another seed makes other data.

    Shape: inputs (N, *shape) float32; targets (N,) int64, or (N, outputs) float32.
    """
    if task == "classification" and outputs < 2:
        raise ConfigError(f"dataset.outputs={outputs}: classification needs at least 2 classes")
    generator = torch.Generator().manual_seed(data_seed)
    size, total = math.prod(shape), samples + test_samples
    inputs = torch.randn(total, size, generator=generator)
    weight = torch.randn(size, outputs, generator=generator) / math.sqrt(size)
    values = inputs @ weight + noise * torch.randn(total, outputs, generator=generator)
    targets = values.argmax(1) if task == "classification" else values
    inputs = inputs.reshape(total, *shape)
    return Data(
        name="synthetic",
        task=task,
        train=Split(inputs[:samples], targets[:samples]),
        test=Split(inputs[samples:], targets[samples:]),
        input_shape=tuple(shape),
        output_size=outputs,
        transform=Standardize(),
        classes=tuple(str(number) for number in range(outputs)) if task == "classification" else (),
        note="made up",
    )
