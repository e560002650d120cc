"""The mean of what stands for a text's tokens."""

from __future__ import annotations

from torch import Tensor, nn

from trainctl.errors import ConfigError
from trainctl.registry import MODELS, Count, Probability


@MODELS.register("embedding_bag")
class EmbeddingBag(nn.Module):
    """The mean of the tokens' vectors, and a linear layer (Joulin et al., Bag of Tricks, 2016).

    The order of the tokens does not count. Tokens are dealt to ``buckets`` by their remainder: two that share
    one are the same to the model.

    Args:
        width: numbers that stand for a token.
        buckets: different vectors.
        dropout: the probability of zeroing a value of the mean while training.

    Shape: tokens (N, length), whole numbers, 0 where there is none → (N, output_size), of any length.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        width: Count = 64,
        buckets: Count = 16384,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise ConfigError(
                f"model=embedding_bag takes texts as tokens, not samples of shape {tuple(input_shape)}",
                "use dataset=csv_text, or another model",
            )
        self.buckets = buckets
        self.embedding = nn.Embedding(buckets, width)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, output_size)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.is_floating_point():
            raise TypeError(f"tokens are whole numbers, not {tokens.dtype}")
        tokens = tokens.long()
        counted = (tokens != 0).unsqueeze(2)
        values = self.embedding(tokens.remainder(self.buckets)) * counted
        logits: Tensor = self.linear(self.dropout(values.sum(1) / counted.sum(1).clamp(min=1)))
        return logits
