"""A table's raw matrix to a model's input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TableTransform(nn.Module):
    """Standardize numbers, replace missing ones by the mean, and encode categories one-hot.

    All statistics come from ``inputs``, the training split: a category that does not occur in it is encoded
    as zeros, like a missing one. A constant column becomes the distance from its constant.

    Args:
        inputs: (N, columns) float32 or float64: numbers, category codes from 0, NaN for a missing cell.
        categories: each column's number of categories, 0 for numbers.

    Shape: (N, columns) → (N, number columns + categories of all others) float32, numbers first.
    """

    def __init__(self, inputs: Tensor, categories: Sequence[int]) -> None:
        super().__init__()
        numbers = [column for column, count in enumerate(categories) if not count]
        slots = [(column, code) for column, count in enumerate(categories) for code in range(count)]
        # Nothing equals NaN, so a category that was not seen is encoded as zero.
        codes = [code if (inputs[:, column] == code).any() else torch.nan for column, code in slots]
        # Of float64 inputs, what is left after subtracting the mean is what float32 has to hold.
        mean, std = column_statistics(inputs[:, numbers], inputs.dtype)
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64))
        self.register_buffer("columns", torch.tensor([column for column, _ in slots], dtype=torch.int64))
        self.register_buffer("codes", torch.tensor(codes, dtype=torch.float32))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    numbers: Tensor
    columns: Tensor
    codes: Tensor
    mean: Tensor
    std: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        values = ((inputs[:, self.numbers] - self.mean) / self.std).nan_to_num_(nan=0.0)
        values = values.to(torch.float32)
        if not len(self.columns):
            return values
        return torch.cat([values, (inputs[:, self.columns] == self.codes).to(values.dtype)], dim=1)


class Affine(nn.Module):
    """``(inputs - mean) / std`` in float32; ``mean`` and ``std`` broadcast against the inputs."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.to(torch.float32) - self.mean) / self.std


def column_statistics(inputs: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column without its NaNs; 1 for a deviation of 0.

    Shape: (N, C) → (C,) and (C,) of ``dtype``.
    """
    values = inputs.to(torch.float64)
    there = ~values.isnan()
    count = there.sum(0).clamp(min=1)
    mean = values.nan_to_num(nan=0.0).sum(0) / count
    deviation = torch.where(there, values - mean, 0.0)
    std = (deviation.square().sum(0) / count).sqrt()
    # Rounding gives a constant column a deviation of 1e-17; dividing by it would amplify noise.
    first = torch.where(there, values, torch.inf).amin(0) if len(values) else mean
    last = torch.where(there, values, -torch.inf).amax(0) if len(values) else mean
    return mean.to(dtype), torch.where(first < last, std, 1.0).to(dtype)
