"""The recurrent network: what it predicts, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from trainctl.components.models.lstm import LSTM
from trainctl.errors import ConfigError


def test_it_learns_what_only_its_state_can_know() -> None:
    """The token to predict is the first of the window: nothing else tells it."""
    torch.manual_seed(0)
    model = LSTM((6,), 4, width=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(150):
        tokens = torch.randint(0, 4, (32, 6))
        loss = cross_entropy(model(tokens), tokens[:, :1].expand(-1, 6))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 < math.log(4)


def test_a_prediction_depends_on_no_later_token_and_windows_may_be_shorter() -> None:
    model = LSTM((8,), 11, width=8, depth=2, dropout=0.5).eval()
    tokens = torch.randint(0, 11, (3, 8))
    before = model(tokens)
    assert before.shape == (3, 11, 8)
    torch.testing.assert_close(model(tokens[:, :5]), before[..., :5])


def test_what_is_no_window_of_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"takes windows of tokens, not samples of shape \(1, 8, 8\)"):
        LSTM((1, 8, 8), 10)
    with pytest.raises(TypeError, match="whole numbers"):
        LSTM((8,), 10)(torch.zeros(2, 8))
