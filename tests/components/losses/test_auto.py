"""Without a typed loss, the task's own."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from trainctl.components.losses.auto import auto
from trainctl.errors import ConfigError

SHORT = ["epochs=2", "threads=1", "model.hidden=[4]"]


def write(path: Path, target: str) -> None:
    draw = random.Random(0)
    cells = {
        "values": lambda a: f"{a * 3 + draw.random():.4f}",
        "classes": lambda a: "high" if a > 0.5 else "low",
    }
    rows = []
    for _ in range(90):
        a = draw.random()
        rows.append(f"{a:.4f},{draw.random():.4f},{cells[target](a)}")
    path.write_text("\n".join(["a,b,y", *rows, ""]))


@pytest.mark.parametrize(("target", "loss"), [("values", "mse"), ("classes", "cross_entropy")])
def test_a_table_without_further_words_trains_with_the_loss_of_its_target(
    target: str, loss: str, trainctl, tmp_path: Path
) -> None:
    write(tmp_path / "table.csv", target)
    words = ["dataset=csv", "dataset.path=table.csv", *SHORT]
    outcome = trainctl(*words, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert f"training  {loss} (loss=auto, for" in outcome.out
    typed = trainctl(*words, f"loss={loss}", "hydra.run.dir=typed")
    assert f"training  {loss}, adam" in typed.out
    results = [json.loads((tmp_path / name / "run.json").read_text())["test"] for name in ("run", "typed")]
    assert results[0] == results[1]
    assert "the same as recorded in the run" in trainctl("eval", "run").out


def test_a_typed_loss_wins(trainctl, tmp_path: Path) -> None:
    write(tmp_path / "table.csv", "values")
    words = ["dataset=csv", "dataset.path=table.csv", *SHORT]
    assert "training  l1, adam" in trainctl(*words, "loss=l1").out
    refused = trainctl(*words, "loss=cross_entropy")
    assert refused.code == 2
    assert "loss=cross_entropy does not fit outputs of shape (N, 1)" in refused.err


def test_its_settings_reach_the_loss_of_classes_and_are_refused_by_others() -> None:
    weighted = auto("classification", torch.tensor([3, 1]), class_weights="balanced", label_smoothing=0.1)
    assert weighted.weight.tolist() == pytest.approx([2 / 3, 2])
    assert weighted.label_smoothing == 0.1
    assert auto("multilabel", label_smoothing=0.1).label_smoothing == 0.1
    with pytest.raises(ConfigError, match="the loss of regression is mse, which has no class_weights"):
        auto("regression", class_weights=[1.0, 2.0])
