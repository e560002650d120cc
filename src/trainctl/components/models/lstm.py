"""A recurrent network for tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainctl.errors import ConfigError
from trainctl.registry import MODELS, Count, Probability


@MODELS.register("lstm")
class LSTM(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997): what was read is kept in a state.

    The state is empty at the beginning of each window.

    Args:
        width: numbers that stand for a token, and in the state of each layer.
        depth: layers, each of which reads the one before.
        dropout: the probability of zeroing a value between layers, and before the last, while training.

    Shape: tokens (N, window), whole numbers below output_size → (N, output_size, window), of any window.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        width: Count = 256,
        depth: Count = 1,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise ConfigError(
                f"model=lstm takes windows of tokens, not samples of shape {tuple(input_shape)}",
                "use dataset=text, or another model",
            )
        self.embedding = nn.Embedding(output_size, width)
        between = dropout if depth > 1 else 0.0
        self.recurrent = nn.LSTM(width, width, depth, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, output_size)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.is_floating_point():
            raise TypeError(f"tokens are whole numbers, not {tokens.dtype}")
        values, _ = self.recurrent(self.embedding(tokens.to(torch.int64)))
        logits: Tensor = self.linear(self.dropout(values))
        return logits.transpose(1, 2)
