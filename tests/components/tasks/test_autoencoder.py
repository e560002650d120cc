"""Reconstruction: the input is the target, whatever happens to it on the way."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tests.helpers.ranks import warm_ranks as warm_ranks
from trainctl import load
from trainctl.config.composer import Composer
from trainctl.training.build import build

WORDS = ("dataset=digits", "++dataset.as_task=autoencoder", "model=autoencoder", "loss=mse")
QUICK = ("threads=1", "display.mode=none")


def test_the_target_is_a_copy_of_the_input() -> None:
    built = build(Composer().compose(WORDS).config)
    batch = next(iter(built.run.train_loader.batches()))
    assert torch.equal(batch.inputs, batch.targets)
    batch.inputs.zero_()
    assert batch.targets.any()
    # The order of an epoch is still told by the dataset's own targets.
    assert built.data_fingerprint(0) != built.data_fingerprint(1)


@pytest.mark.slow  # importing torchvision
def test_the_target_is_the_augmented_input() -> None:
    words = (*WORDS, "++dataset.augment=[{RandomCrop: {size: 8, padding: 1}}]")
    batch, plain = (
        next(iter(build(Composer().compose(each).config).run.train_loader.batches()))
        for each in (words, WORDS)
    )
    assert torch.equal(batch.inputs, batch.targets)
    assert not torch.equal(batch.inputs, plain.inputs)


def test_digits_from_training_to_reconstructions(trainctl: Callable[..., Any]) -> None:
    outcome = trainctl(*WORDS, *QUICK, "epochs=8", "name=ae")
    assert outcome.code == 0, outcome.err
    scored = json.loads(trainctl("eval", "ae", "--json").out)
    assert set(scored["values"]) == {"test/loss", "test/mse", "test/mae"}
    assert scored["recorded"] == scored["values"]
    assert scored["values"]["test/mse"] < 0.3  # of the mean image it is 0.52
    built = build(Composer().compose(WORDS).config)
    images = built.data.test.inputs[:5]  # type: ignore[union-attr]
    numpy.savez("digits.npz", x=images.numpy())
    assert trainctl("predict", "ae", "--input", "digits.npz", "--output", "out.csv").code == 0
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert list(rows[0]) == ["row", *(f"prediction_{number}" for number in range(1, 65)), "error"]
    with torch.no_grad():
        expected = load("ae")(built.data.transform(images)).flatten(1)
    found = torch.tensor([[float(row[f"prediction_{number}"]) for number in range(1, 65)] for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dataset.as_task=regression", "loss=mse"), "dataset.as_task=regression: it needs values"),
        (("dataset.as_task=autoencoders", "loss=mse"), "did you mean autoencoder?"),
        (("dataset.as_task={autoencoder:{size:3}}",), "task autoencoder has no argument 'size'"),
        (("dataset.as_task=[autoencoder]",), "dataset.as_task=[autoencoder]: must be text or"),
        (("dataset.as_task=autoencoder", "loss=mse"), "model=mlp must give outputs of shape (N, 1, 8, 8)"),
        (("dataset.as_task=autoencoder", "loss=cross_entropy"), "the targets are the inputs: use loss=mse"),
    ],
)
def test_what_does_not_fit_is_refused(
    words: tuple[str, ...], said: str, trainctl: Callable[..., Any]
) -> None:
    outcome = trainctl("dataset=digits", *words)
    assert outcome.code == 2
    assert said in outcome.err


@pytest.mark.slow
@pytest.mark.usefixtures("warm_ranks")
def test_two_devices_and_a_fused_sweep_give_the_same_values(trainctl: Callable[..., Any]) -> None:
    for name, words in (("one", ()), ("two", ("devices=2", "device=cpu"))):
        assert trainctl(*WORDS, *QUICK, "epochs=2", f"name={name}", *words).code == 0
    one, two = (json.loads(trainctl("eval", name, "--json").out)["values"] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)
    outcome = trainctl("-m", "hydra/launcher=fused", *WORDS, *QUICK, "epochs=2", "seed=0,1")
    assert outcome.code == 0, outcome.out
    fused = json.loads(trainctl("eval", str(next(Path("outputs/sweeps").rglob("0"))), "--json").out)["values"]
    assert fused == pytest.approx(one, rel=1e-4)
