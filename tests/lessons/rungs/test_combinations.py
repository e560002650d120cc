"""torch's classes and the rebuilt ones, in every mix that the protocol allows: equal losses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from trainctl.cli.main import main

WORDS = (
    "model.hidden=[16]",
    "train.max_steps=12",
    "threads=1",
    "display.mode=none",
    "checkpoint.keep_last=9",
)
OPTIMS = {
    "sgd": (("optim=sgd", "optim.lr=0.1", "optim.fused=false"), ("optim=scratch_sgd", "optim.lr=0.1")),
    "momentum": (
        ("optim=sgd_momentum", "optim.lr=0.05", "optim.fused=false"),
        ("optim=scratch_sgd", "optim.lr=0.05", "optim.momentum=0.9"),
    ),
    "adam": (("optim=adam", "optim.lr=0.01", "optim.fused=false"), ("optim=scratch_adam", "optim.lr=0.01")),
}
# Each rebuilt part alone, and all together; the mixes between are slow ones.
MIXES = [
    pytest.param(
        *mix, marks=pytest.mark.slow if 1 < sum(map(bool, mix[:3])) + (mix[3] == "scratch") < 4 else ()
    )
    for mix in itertools.product(("", "scratch_"), ("", "scratch_"), (0, 1), ("resident", "scratch"))
]


def train(folder: Path, *words: str) -> list[float]:
    assert main([*WORDS, *words, f"hydra.run.dir={folder}"]) == 0
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines for key in ("train/loss", "val/loss", "test/loss") if key in line]


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    folder = tmp_path_factory.mktemp("standard")
    return {name: train(folder / name, *optim[0]) for name, optim in OPTIMS.items()}


@pytest.mark.quick(2)
@pytest.mark.parametrize(("model", "loss", "optim", "loader"), MIXES)
@pytest.mark.parametrize(
    "name",
    ["adam", pytest.param("sgd", marks=pytest.mark.slow), pytest.param("momentum", marks=pytest.mark.slow)],
)
def test_it_trains_with_equal_losses(
    name: str, model: str, loss: str, optim: int, loader: str, standard: dict[str, list[float]]
) -> None:
    words = (f"model={model}mlp", f"loss={loss}cross_entropy", f"loader={loader}", *OPTIMS[name][optim])
    losses = train(Path("run"), *words)
    assert len(losses) == 14
    if loss:
        # The rebuilt cross-entropy adds in another order than torch's kernel, and the steps carry it on.
        assert losses == pytest.approx(standard[name], rel=2e-4)
    else:
        assert losses == standard[name]
