"""The bag of embeddings: a mean over the tokens that are there."""

from __future__ import annotations

import pytest
import torch

from trainctl.components.models.embedding_bag import EmbeddingBag
from trainctl.errors import ConfigError


def test_it_is_the_mean_over_the_tokens_that_are_there() -> None:
    model = EmbeddingBag((4,), 3, width=5, buckets=7)
    tokens = torch.tensor([[3, 9, 2**31 - 1, 0], [0, 0, 0, 0]], dtype=torch.int32)
    weight = model.embedding.weight
    mean = (weight[3] + weight[9 % 7] + weight[(2**31 - 1) % 7]) / 3
    torch.testing.assert_close(model(tokens)[0], model.linear(mean))
    torch.testing.assert_close(model(tokens)[1], model.linear.bias)
    torch.testing.assert_close(model(tokens[:, [2, 0, 1]])[0], model(tokens)[0])


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"takes texts as tokens, not samples of shape \(1, 8, 8\)"):
        EmbeddingBag((1, 8, 8), 10)
    with pytest.raises(TypeError, match="whole numbers"):
        EmbeddingBag((8,), 10)(torch.zeros(2, 8))
