"""A batch computed in pieces gives the step of the whole batch, also where memory runs out on the way."""

from __future__ import annotations

import gc
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from trainctl.config.composer import Composer
from trainctl.config.settings import Component
from trainctl.errors import ConfigError
from trainctl.registry import MODELS
from trainctl.training.construct import construct
from trainctl.training.devices import check_devices
from trainctl.training.loop import train_step
from trainctl.training.steps.micro_batches import MicroBatches

FAST = ("model.name=hungry", "threads=1", "epochs=2", "dataset=synthetic", "dataset.samples=230", "seed=4")


class Hungry(nn.Module):
    """Has memory for ``limit`` samples of a training step."""

    limit = 12

    def __init__(self, input_shape: Any, output_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.layers = nn.Sequential(
            nn.Flatten(), nn.LazyLinear(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, output_size)
        )
        self.layers(torch.zeros(1, *input_shape))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += len(inputs)
            torch.rand(1)
            if len(inputs) > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return self.layers(inputs)


@pytest.fixture(autouse=True)
def _registered() -> None:
    MODELS.register("hungry")(Hungry)


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 7.0]], ids=["plain", "class weights"])
def test_a_step_that_runs_out_of_memory_is_that_of_the_whole_batch(
    weights: list[float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, targets = torch.randn(41, 5, generator=torch.Generator().manual_seed(1)), torch.arange(41) % 3
    arguments = {} if weights is None else {"class_weights": weights}
    criterion = construct(Component("loss", "cross_entropy", arguments), class_counts=torch.ones(3))
    found = []
    sizes: list[int] = []
    whole = MicroBatches(64, sizes.append)
    for step, limit in ((train_step, 99), (whole, 99), (MicroBatches(64, sizes.append), 12)):
        monkeypatch.setattr(Hungry, "limit", limit)
        torch.manual_seed(0)
        model = Hungry((5,), 3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        taken = [float(step(model, criterion, optimizer, inputs, targets, nullcontext())) for _ in range(3)]
        assert model.seen == 3 * 41  # nothing of a try that failed is left
        found.append((taken, nn.utils.parameters_to_vector(model.parameters())))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][0] == pytest.approx(found[2][0], abs=1e-6)
    assert torch.allclose(found[0][1], found[2][1], atol=1e-4)
    assert sizes == [20, 10]


def test_the_first_piece_that_fits_leaves_random_numbers_as_if_it_had_been_asked_for() -> None:
    inputs, targets = torch.randn(40, 5), torch.zeros(40, dtype=torch.int64)
    ends = []
    for step in (MicroBatches(10), MicroBatches(40, lambda size: None)):
        torch.manual_seed(0)
        model = Hungry((5,), 3, dropout=0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ends.append(
            [step(model, nn.CrossEntropyLoss(), optimizer, inputs, targets, nullcontext()), torch.rand(3)]
        )
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_memory_that_the_optimizer_lacks_is_an_error() -> None:
    class Greedy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model = Hungry((5,), 3)
    step = MicroBatches(10, lambda size: pytest.fail("begun again after an update"))
    with pytest.raises(torch.OutOfMemoryError):
        step(
            model,
            nn.CrossEntropyLoss(),
            Greedy(model.parameters(), lr=0.1),
            torch.randn(10, 5),
            torch.zeros(10, dtype=torch.int64),
            nullcontext(),
        )


def test_a_run_finds_its_pieces_says_so_and_resumes_with_them(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "limit", 999)
    assert trainctl(*FAST, "hydra.run.dir=whole").code == 0
    monkeypatch.setattr(Hungry, "limit", 12)
    outcome = trainctl(*FAST, "train.micro_batch=auto", "hydra.run.dir=cut", "train.max_steps=3")
    assert outcome.code == 0, outcome.err
    said = "step 1: out of memory; batches are computed in pieces of 8 samples from here on"
    assert "micro-batches of 64, halved where memory runs out, loss guard" in outcome.out
    assert said in outcome.out + outcome.err
    assert said in (tmp_path / "cut" / "train.log").read_text()
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["environment"]["micro_batch"] == "8"

    outcome = trainctl("resume", "cut", "train.max_steps=null")
    assert outcome.code == 0, outcome.err
    assert "micro-batches of 8, halved where memory runs out" in outcome.out
    assert "out of memory" not in outcome.out + outcome.err
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)

    outcome = trainctl(*FAST, "train.micro_batch=16", "train.max_steps=1")
    assert outcome.code == 2
    assert "not enough memory" in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model=mlp model.normalization=batch", "batch normalization would normalize each piece by itself"),
        ("loop=layers optim=sgd", "requires loop=optimizer"),
        ("model.name=hungry dataset=synthetic", "not enough memory for the step of one sample"),
    ],
)
def test_what_pieces_cannot_do_is_refused(
    trainctl, words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "limit", 0)
    outcome = trainctl(*words.split(), "train.micro_batch=auto", "threads=1", "epochs=1", "display.mode=none")
    assert outcome.code == 2
    assert said in outcome.err


def test_a_piece_of_ignored_targets_only_counts_nothing() -> None:
    inputs, targets = torch.randn(4, 5, 3), torch.full((4, 3), -100)
    targets[0] = torch.tensor([0, 1, 2])
    criterion = construct(Component("loss", "cross_entropy"), class_counts=None)
    model = nn.Conv1d(5, 3, 1)
    step = MicroBatches(1)
    loss = step(model, criterion, torch.optim.SGD(model.parameters(), lr=0.0), inputs, targets, nullcontext())
    assert float(loss) == pytest.approx(criterion(model(inputs), targets).item())
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())


def test_several_devices_are_refused() -> None:
    group: Any = SimpleNamespace(size=2)
    with pytest.raises(ConfigError, match=r"train\.micro_batch=8: not on several devices") as refused:
        check_devices(Composer().compose(["train.micro_batch=8"]).config, group)
    assert "train.accumulate=2" in refused.value.problems[0].remedy


class Wide(nn.Linear):
    """Keeps 32 MiB a sample for the backward pass."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward((inputs.repeat(1, 1, 1 << 19) * self.weight.mean()).sin().mean(2))


@pytest.mark.gpu
def test_real_memory_that_runs_out() -> None:
    inputs, targets = torch.rand(64, 8, 1), torch.arange(64) % 3
    whole = torch.cuda.get_device_properties(0).total_memory
    found = []
    sizes: list[int] = []
    for device, step in (("cpu", MicroBatches(4)), ("cuda", MicroBatches(64, sizes.append))):
        torch.manual_seed(0)
        model = Wide(8, 3).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        arguments = inputs.to(device), targets.to(device), nullcontext()
        try:
            if device == "cuda":
                gc.collect()  # what earlier tests in this process have left
                torch.cuda.empty_cache()
                allowed = torch.cuda.memory_reserved() + 700 * 2**20
                torch.cuda.set_per_process_memory_fraction(allowed / whole)
            found.append([step(model, nn.CrossEntropyLoss(), optimizer, *arguments).item() for _ in range(3)])
        finally:
            if device == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0)
    assert sizes == [64 >> number for number in range(1, len(sizes) + 1)]
    assert 1 <= len(sizes) <= 4
    assert found[0] == pytest.approx(found[1], abs=1e-5)
