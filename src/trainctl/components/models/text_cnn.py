"""Convolutions over the words of a text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainctl.errors import ConfigError
from trainctl.registry import MODELS, Count, Probability


@MODELS.register("text_cnn")
class TextCNN(nn.Module):
    """The largest answer of each filter over a text, and a linear layer.

    As in Kim, Convolutional Neural Networks for Sentence Classification (2014). A filter sees a few tokens
    that follow each other, so that their order counts. Tokens are dealt to ``buckets`` by their remainder:
    two that share one are the same to the model.

    Args:
        width: numbers that stand for a token.
        buckets: different vectors.
        spans: tokens that a filter sees; each has as many filters.
        filters: of each span.
        dropout: the probability of zeroing an answer while training.

    Shape: tokens (N, length), whole numbers, 0 where there is none → (N, output_size), of any length.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        width: Count = 64,
        buckets: Count = 16384,
        spans: list[Count] = [3, 4, 5],  # noqa: B006 - read only
        filters: Count = 64,
        dropout: Probability = 0.5,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise ConfigError(
                f"model=text_cnn takes texts as tokens, not samples of shape {tuple(input_shape)}",
                "use dataset=csv_text, or another model",
            )
        if not spans:
            raise ConfigError(
                "model.spans=[]: no filters", "give the tokens that each sees: model.spans=[3,4,5]"
            )
        self.buckets, self.longest = buckets, max(spans)
        self.embedding = nn.Embedding(buckets, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, span) for span in spans)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(filters * len(spans), output_size)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.is_floating_point():
            raise TypeError(f"tokens are whole numbers, not {tokens.dtype}")
        # At both ends there is room for a filter that sees one token of the text.
        tokens = nn.functional.pad(tokens.long(), (self.longest - 1, self.longest - 1))
        values = self.embedding(tokens.remainder(self.buckets)) * (tokens != 0).unsqueeze(2)
        values = values.transpose(1, 2)
        answers = [torch.relu(each(values)).amax(2) for each in self.convolutions]
        logits: Tensor = self.linear(self.dropout(torch.cat(answers, 1)))
        return logits
