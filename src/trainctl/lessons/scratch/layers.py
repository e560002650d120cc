"""Layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainctl.lessons.scratch.module import Module


class Linear(Module):
    """An affine map, ``outputs = inputs @ weight.T + bias``.

    The weights start uniform within ±sqrt(6 / ((1 + a²) fan_in)), fan_in being the number of inputs: He et
    al., Delving Deep into Rectifiers (2015), for a leaky ReLU of slope a. With torch's a = sqrt(5) the bound
    is 1 / sqrt(fan_in), which is the biases' bound, too. A seed gives the numbers that torch.nn.Linear gets.

    Args:
        in_features: values a sample.
        out_features: outputs a sample.
        bias: learn an offset an output.

    Shape: (N, in_features) → (N, out_features); weight (out_features, in_features), bias (out_features,).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        # torch's operations in torch's order: 1 / sqrt(in_features) may differ in the last bit.
        gain = math.sqrt(2 / (1 + math.sqrt(5) ** 2))
        bound = math.sqrt(3) * (gain / math.sqrt(in_features))
        self.weight = torch.empty(out_features, in_features).uniform_(-bound, bound).requires_grad_()
        self.bias: Tensor | None = None
        if bias:
            bound = 1 / math.sqrt(in_features)
            self.bias = torch.empty(out_features).uniform_(-bound, bound).requires_grad_()

    def forward(self, inputs: Tensor) -> Tensor:
        if self.bias is None:
            return inputs @ self.weight.T
        # bias + inputs @ weight.T as one operation, which rounds as torch.nn.Linear does.
        return torch.addmm(self.bias, inputs, self.weight.T)

    def extra_repr(self) -> str:
        out_features, in_features = self.weight.shape
        return f"in_features={in_features}, out_features={out_features}, bias={self.bias is not None}"


class ReLU(Module):
    """max(0, inputs), elementwise; its derivative at 0 is 0. Shape: any, kept."""

    def forward(self, inputs: Tensor) -> Tensor:
        # Not inputs * (inputs > 0), which turns -inf into NaN, nor a choice by inputs > 0, which hides NaN.
        return inputs.masked_fill(inputs <= 0, 0)


class Dropout(Module):
    """Zeroes values at random in training; the identity in evaluation.

    Kept values are divided by 1 - p, so that the expected value is the same in both modes ("inverted"
    dropout). Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting (2014).

    Args:
        p: the probability of zeroing a value, below 1.

    Raises ValueError for another p. Shape: any, kept.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p is {p}, not a probability below 1")
        self.p = p

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return inputs
        kept = torch.empty_like(inputs).bernoulli_(1 - self.p)
        return inputs * (kept / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """Each sample as one row. Shape: (N, …) → (N, product of the rest)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(len(inputs), math.prod(inputs.shape[1:]))
