"""A table's raw matrix to a model's input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_BLOCK = 1 << 16
"""Rows whose statistics are summed up at once."""


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
        mean, std = column_statistics(
            inputs if len(numbers) == inputs.shape[1] else inputs[:, numbers], inputs.dtype
        )
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64))
        self.register_buffer("columns", torch.tensor([column for column, _ in slots], dtype=torch.int64))
        self.register_buffer("codes", torch.tensor(codes, dtype=torch.float32))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    row_wise = True
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

    row_wise = True
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
    blocks = torch.split(inputs, _BLOCK)  # in float64 the whole would be several times as large
    count = torch.stack([(~block.isnan()).sum(0) for block in blocks]).sum(0).clamp(min=1)
    sums = [block.to(torch.float64).nan_to_num(nan=0.0).sum(0) for block in blocks]
    mean = torch.stack(sums).sum(0) / count
    squares = torch.zeros_like(mean)
    first, last = torch.full_like(mean, torch.inf), torch.full_like(mean, -torch.inf)
    for block in blocks:
        values = block.to(torch.float64)
        there = ~values.isnan()
        squares += torch.where(there, values - mean, 0.0).square().sum(0)
        if len(values):
            first = torch.minimum(first, torch.where(there, values, torch.inf).amin(0))
            last = torch.maximum(last, torch.where(there, values, -torch.inf).amax(0))
    # Rounding gives a constant column a deviation of 1e-17; dividing by it would amplify noise.
    std = (squares / count).sqrt()
    return mean.to(dtype), torch.where(first < last, std, 1.0).to(dtype)
