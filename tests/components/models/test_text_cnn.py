"""A convolution over texts: their order counts, what fills them up does not."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainctl.components.models.text_cnn import TextCNN
from trainctl.errors import ConfigError


def made(**settings: Any) -> TextCNN:
    torch.manual_seed(0)
    return TextCNN((8,), 3, **{"width": 4, "buckets": 50, "filters": 5, **settings}).eval()


def test_a_text_of_any_length_has_the_answer_of_its_tokens() -> None:
    model, text = made(), torch.tensor([[7, 3, 9]])
    filled = torch.tensor([[7, 3, 9, 0, 0, 0, 0, 0, 0]])
    assert model(text).shape == (1, 3)
    torch.testing.assert_close(model(text), model(filled))
    torch.testing.assert_close(model(text), model(text + 50))  # the same buckets
    assert not torch.allclose(model(text), model(torch.tensor([[9, 3, 7]])))
    assert model(torch.zeros(2, 1, dtype=torch.int32)).isfinite().all()  # no text at all


def test_an_answer_is_the_largest_of_a_filter_computed_by_hand() -> None:
    model, tokens = made(spans=[2], filters=1), torch.tensor([[7, 3, 9]])
    vectors = [torch.zeros(4), *model.embedding.weight[[7, 3, 9]], torch.zeros(4)]
    (kernel,) = model.convolutions[0].weight
    pairs = [(torch.stack(vectors[at : at + 2], 1) * kernel).sum() for at in range(4)]
    largest = torch.stack(pairs).add(model.convolutions[0].bias).relu().max()
    torch.testing.assert_close(model(tokens), model.linear(largest.view(1, 1)))


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes texts as tokens"):
        TextCNN((1, 8, 8), 3)
    with pytest.raises(ConfigError, match="no filters"):
        made(spans=[])
    with pytest.raises(TypeError, match="whole numbers"):
        made()(torch.rand(2, 8))


def test_it_learns_what_depends_on_the_order(trainctl: Callable[..., Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(400):
        first, second = ("dog", "man") if torch.rand((), generator=draw) < 0.5 else ("man", "dog")
        noise = [f"w{torch.randint(9, (), generator=draw)}" for _ in range(3)]
        rows.append((f"{noise[0]} {noise[1]} {first} bites {second} {noise[2]}", first))
    with Path("t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "who"), *rows])
    words = ("dataset=csv_text", "dataset.path=t.csv", "dataset.length=8", "model=text_cnn", "lr=0.01")
    small = ("model.buckets=512", "model.width=16", "model.filters=8", "threads=1", "display.mode=none")
    assert trainctl(*words, *small, "epochs=8", "hydra.run.dir=run").code == 0
    assert json.loads(Path("run/run.json").read_text())["test"]["test/accuracy"] == 1
