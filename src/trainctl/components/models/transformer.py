"""A small decoder: each token sees itself and those before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from trainctl.errors import ConfigError
from trainctl.registry import MODELS, Count, Probability


@MODELS.register("transformer")
class Transformer(nn.Module):
    """A decoder of causal self-attention (Vaswani et al., Attention Is All You Need, 2017).

    Each layer normalizes before attention and before its two linear layers and adds to what it got (Radford
    et al., Language Models are Unsupervised Multitask Learners, 2019); the last layer shares its weights with
    the embedding of the tokens. Positions are learned, one for each place of a window.

    Args:
        width: numbers that stand for a token inside.
        depth: layers.
        heads: of each attention; they divide the width among them.
        dropout: the probability of zeroing a value while training, after embedding, attention and layers.

    Shape: tokens (N, window), whole numbers below output_size → (N, output_size, window); shorter windows,
    too.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        width: Count = 128,
        depth: Count = 4,
        heads: Count = 4,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise ConfigError(
                f"model=transformer takes windows of tokens, not samples of shape {tuple(input_shape)}",
                "use dataset=text, or another model",
            )
        if width % heads:
            raise ConfigError(
                f"model.heads={heads} does not divide model.width={width}", "use a multiple of the heads"
            )
        self.embedding = nn.Embedding(output_size, width)
        self.positions = nn.Parameter(torch.empty(input_shape[0], width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(depth))
        self.normalize = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # What is added to the sum of all layers starts smaller, so that the sum does not grow.
                deep = name.endswith("output.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if deep else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.is_floating_point():
            raise TypeError(f"tokens are whole numbers, not {tokens.dtype}")
        values = self.embedding(tokens.to(torch.int64)) + self.positions[: tokens.shape[1]]
        values = self.dropout(values)
        for layer in self.layers:
            values = layer(values)
        logits: Tensor = self.normalize(values) @ self.embedding.weight.T
        return logits.transpose(1, 2)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before_attention, self.before_linear = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, heads, dropout)
        self.linear = _Linear(width, dropout)

    def forward(self, values: Tensor) -> Tensor:
        values = values + self.attention(self.before_attention(values))
        outputs: Tensor = values + self.linear(self.before_linear(values))
        return outputs


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        # (N, window, 3, heads, width a head) → three times (N, heads, window, width a head).
        parts = self.query_key_value(values).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        rate = self.rate if self.training else 0.0
        seen = scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        outputs: Tensor = self.dropout(self.output(seen.transpose(1, 2).flatten(2)))
        return outputs


class _Linear(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation, self.dropout = nn.GELU(), nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        outputs: Tensor = self.dropout(self.output(self.activation(self.hidden(values))))
        return outputs
