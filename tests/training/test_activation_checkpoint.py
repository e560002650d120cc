"""Activations that are computed again: the same steps to the bit, in less memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.ranks import warm_ranks as warm_ranks
from tests.helpers.runs import metrics
from trainctl import load
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.training.build import build

TEXT = (
    "dataset=text", "dataset.context=32", "dataset.limit=96", "model=transformer", "model.width=32",
    "model.depth=3", "model.dropout=0.2", "threads=1", "display.mode=none", "train.batch_size=16",
)  # fmt: skip
AGAIN = "train.activation_checkpoint=[layers.*]"


def built(*words: str) -> Any:
    return build(Composer().compose([*map(to_hydra, (*TEXT, *words))]).config)


def state(run: str) -> dict[str, torch.Tensor]:
    return dict(load(run, which="last").state_dict())


def kept_bytes(run: Any) -> int:
    """The bytes that autograd keeps from a forward pass, parameters aside."""
    own = {item.untyped_storage().data_ptr() for item in run.model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = next(iter(run.train_loader.batches()))
    run.model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run.criterion(run.model(batch.inputs), batch.targets)
    assert loss.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("more", [(), ("train.ema=0.9", "train.micro_batch=5", "optim=sgd_momentum")])
def test_steps_are_the_same_to_the_bit(more: tuple[str, ...], trainctl: Any) -> None:
    for name, own in (("plain", ()), ("again", (AGAIN,))):
        outcome = trainctl(*TEXT, *more, *own, "epochs=2", f"hydra.run.dir={name}")
        assert outcome.code == 0, outcome.err
    assert metrics(Path("plain")) == metrics(Path("again"))
    one, other = state("plain"), state("again")
    assert list(one) == list(other)
    assert all(torch.equal(item, other[name]) for name, item in one.items())
    said = json.loads(Path("again/run.json").read_text())["environment"]["recomputed"]
    assert said == "layers.0, layers.1, layers.2"


def test_a_run_may_go_on_with_or_without(trainctl: Any) -> None:
    words = (*TEXT, "epochs=2", "train.max_steps=7")
    assert trainctl(*TEXT, "epochs=2", "hydra.run.dir=whole").code == 0
    assert trainctl(*words, AGAIN, "hydra.run.dir=parts").code == 0
    outcome = trainctl("resume", "parts", "train.max_steps=null", "train.activation_checkpoint=[]")
    assert outcome.code == 0, outcome.err
    one, other = state("whole"), state("parts")
    assert all(torch.equal(item, other[name]) for name, item in one.items())


def test_less_is_kept_for_the_backward_pass() -> None:
    plain, again, outer = (
        kept_bytes(built(*own).run)
        for own in ((), (f"{AGAIN}",), ("train.activation_checkpoint=[layers.*.linear]",))
    )
    assert again < 0.35 * plain
    assert again < outer < plain


def test_only_training_computes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = built(AGAIN).run
    calls: list[bool] = []
    inner = run.model.layers[0].attention
    inner.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    batch = next(iter(run.train_loader.batches()))
    run.model.eval()
    with torch.no_grad():
        run.model(batch.inputs)
    assert len(calls) == 1
    run.model.train()
    run.criterion(run.model(batch.inputs), batch.targets).backward()
    assert len(calls) == 3
    assert isinstance(run.model.layers, nn.ModuleList)
    assert type(run.model.layers[0]).__name__ == "_Layer"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*TEXT, "train.activation_checkpoint=[layer.*]"), "did you mean layers."),
        ((*TEXT, "train.activation_checkpoint=[layers]"), "is a list of modules, not one"),
        (("model=cnn", "train.activation_checkpoint=[features]"), "features.1 would count each batch twice"),
        (("loop=layers", "optim=sgd", "train.activation_checkpoint=['*']"), "requires loop=optimizer"),
        (
            ("model=scratch_mlp", "train.activation_checkpoint=['*']"),
            "requires loop=optimizer and a torch.nn",
        ),
        (("train.activation_checkpoint=layers",), "must be a list"),
    ],
)
def test_what_cannot_be_computed_again_is_refused(words: tuple[str, ...], said: str, trainctl: Any) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert said in outcome.err


@pytest.mark.slow
@pytest.mark.usefixtures("warm_ranks")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_devices_take_the_same_steps(strategy: str, trainctl: Any) -> None:
    words = (*TEXT, "model.dropout=0", "epochs=1", AGAIN)
    assert trainctl(*words, "hydra.run.dir=one").code == 0
    outcome = trainctl(*words, "hydra.run.dir=two", "devices=2", "device=cpu", f"strategy={strategy}")
    assert outcome.code == 0, outcome.err
    for name, item in state("one").items():
        torch.testing.assert_close(item, state("two")[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_compiled_and_fused(trainctl: Any) -> None:
    assert (
        trainctl(*TEXT, "model.dropout=0", "epochs=1", AGAIN, "compile=true", "hydra.run.dir=compiled").code
        == 0
    )
    assert trainctl(*TEXT, "model.dropout=0", "epochs=1", "hydra.run.dir=plain").code == 0
    for name, item in state("plain").items():
        torch.testing.assert_close(item, state("compiled")[name], rtol=1e-3, atol=1e-5)
    outcome = trainctl("-m", "hydra/launcher=fused", *TEXT, "model.dropout=0", AGAIN, "epochs=1", "seed=0,1")
    assert outcome.code == 0, outcome.err
    assert "train.activation_checkpoint=[layers.*] has no stacked form" in outcome.out + outcome.err
