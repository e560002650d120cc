"""Language models: windows of bytes, the loss of a valid token, and how a text goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.helpers.ranks import warm_ranks as warm_ranks
from trainctl.components.models.transformer import Transformer
from trainctl.components.tasks.language_model import IGNORED
from trainctl.config.composer import Composer
from trainctl.errors import ConfigError, MissingDataError
from trainctl.registry import DATASETS, LOSSES, METRICS, TASKS
from trainctl.training.build import build
from trainctl.training.loop import evaluate

SMALL = ("dataset=text", "++dataset.context=16", "model=transformer", "++model.width=32", "++model.depth=1")
QUICK = ("threads=1", "display.mode=none", "train.batch_size=16", "lr=0.01")


def read(**settings: Any) -> Any:
    return DATASETS.load("text")(**settings)


# ------------------------------------------------------------------ windows


def test_each_byte_but_the_first_of_a_file_is_predicted_once(tmp_path: Path) -> None:
    texts = {"a.txt": "abcdefghij", "deep/b.txt": "häß", "c.md": "no text", "one.txt": "x"}
    (tmp_path / "deep").mkdir()
    for name, content in texts.items():
        (tmp_path / name).write_text(content)
    data = read(path=str(tmp_path), context=4, test=0)
    counted = data.train.targets != IGNORED
    assert data.train.targets[counted].tolist() == [*b"bcdefghij", *"äß".encode()]
    assert data.train.inputs[counted].tolist() == [*b"abcdefghi", *"häß".encode()[:-1]]
    assert data.train.inputs.shape == data.train.targets.shape == (4, 4)
    assert (data.train.inputs.dtype, data.task, data.output_size) == (torch.uint8, "language_model", 256)
    assert "16 bytes in windows of 4" in data.note


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="not found"):
        read(path=str(tmp_path / "absent.txt"))
    with pytest.raises(ConfigError, match=r"has no files \*\.txt"):
        read(path=str(tmp_path))
    (tmp_path / "one.txt").write_text("x")
    with pytest.raises(ConfigError, match="no file has two bytes"):
        read(path=str(tmp_path))


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (torch.zeros(3, dtype=torch.int64), r"int64 of shape \(3,\); next tokens are whole numbers"),
        (torch.full((2, 3), 0.5), r"float32 of shape \(2, 3\)"),
        (torch.full((2, 3), IGNORED), "all ignored"),
        (torch.full((2, 3), 7), r"target 7 is outside its vocabulary of 5"),
        (torch.full((2, 3), -1), "target -1 is outside"),
    ],
)
def test_targets_that_are_no_next_tokens_are_refused(targets: Tensor, said: str) -> None:
    task = TASKS.load("language_model")()
    with pytest.raises(ConfigError, match=said):
        task.check("dataset made: train", task.converted("dataset made: train", targets), 5)


# ------------------------------------------------------------------ loss and perplexity


def sequences(seed: int) -> tuple[Tensor, Tensor]:
    """Outputs as a model of sequences gives them, and targets of which some are ignored."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(6, 9, 5, generator=generator).transpose(1, 2)
    targets = torch.randint(0, 5, (6, 9), generator=generator)
    targets[torch.rand(6, 9, generator=generator) < 0.4] = IGNORED
    targets[seed % 6] = IGNORED
    return outputs, targets


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}])
def test_the_loss_is_that_of_a_valid_token_however_batches_are_cut(settings: dict[str, Any]) -> None:
    outputs, targets = sequences(0)
    criterion = LOSSES.load("cross_entropy")(**settings)
    whole = cross_entropy(outputs, targets, **settings)
    torch.testing.assert_close(criterion(outputs, targets), whole)
    torch.testing.assert_close(criterion(outputs.contiguous(), targets), whole)

    class Given(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return outputs[inputs]

    for size in (1, 4, 6):
        # The first sample alone is a batch without a single valid token.
        batches = [(rows, targets[rows], len(rows), None) for rows in torch.arange(6).split(size)]
        metrics = {"perplexity": METRICS.load("perplexity")}
        precision = torch.autocast("cpu", enabled=False)
        found = evaluate(Given(), criterion, batches, metrics, precision)  # type: ignore[arg-type]
        assert found["loss"] == pytest.approx(float(whole), rel=1e-6)
        assert found["perplexity"] == pytest.approx(math.exp(cross_entropy(outputs, targets)), rel=1e-6)


def test_perplexity_of_nothing_is_nothing() -> None:
    metric = METRICS.load("perplexity")()
    assert math.isnan(metric.compute())
    metric.update(torch.randn(2, 5, 3), torch.full((2, 3), IGNORED))
    assert math.isnan(metric.compute())


@pytest.mark.slow  # importing torchmetrics
def test_perplexity_equals_torchmetrics() -> None:
    text = pytest.importorskip("torchmetrics.text")
    for seed in range(6):
        outputs, targets = sequences(seed)
        metric = METRICS.load("perplexity")()
        for one, other in zip(outputs.split(4), targets.split(4), strict=True):
            metric.update(one, other)
        theirs = text.Perplexity(ignore_index=IGNORED)(outputs.transpose(1, 2), targets)
        assert metric.compute() == pytest.approx(float(theirs), rel=1e-5)


def test_a_loss_that_ignores_nothing_is_refused(trainctl: Callable[..., Any]) -> None:
    Path("own.py").write_text(
        "from torch import nn\n"
        "from trainctl.registry import LOSSES\n"
        "@LOSSES.register('own')\n"
        "class Own(nn.Module):\n"
        "    target = 'class'\n"
        "    def forward(self, outputs, targets):\n"
        "        return -outputs.log_softmax(1).gather(1, targets.clamp(min=0)[:, None]).mean()\n"
    )
    Path("text.txt").write_text("a text whose last window is not full" * 20)
    own = ("plugins=[./own.py]", "loss.name=own", "dataset.path=text.txt", "epochs=1")
    outcome = trainctl(*(word.lstrip("+") for word in SMALL), *own, *QUICK)
    assert outcome.code == 2
    assert "loss=own has no ignore_index of -100, and some targets are to be ignored" in outcome.err


# ------------------------------------------------------------------ the model


def test_a_prediction_depends_on_no_later_token() -> None:
    torch.manual_seed(0)
    model = Transformer((8,), 11, width=16, depth=2, heads=2).eval()
    tokens = torch.randint(0, 11, (3, 8))
    before = model(tokens)
    assert before.shape == (3, 11, 8)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    after = model(changed)
    torch.testing.assert_close(after[..., :5], before[..., :5])
    assert not torch.allclose(after[..., 5:], before[..., 5:])
    torch.testing.assert_close(model(tokens[:, :3]), before[..., :3])
    # An untrained model is about as good as a guess.
    assert cross_entropy(before, tokens).item() == pytest.approx(math.log(11), abs=0.1)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dataset=digits", "model=transformer"), "takes windows of tokens, not samples of shape (1, 8, 8)"),
        (("dataset=synthetic", "model=transformer"), "tokens are whole numbers, not torch.float32"),
        (("dataset=text", "model=transformer", "model.heads=5"), "model.heads=5 does not divide"),
        (
            ("dataset=text", "model=transformer", "loss=mse"),
            "the targets are the next tokens: use loss=cross_entropy",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    words: tuple[str, ...], said: str, trainctl: Callable[..., Any]
) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert said in outcome.err


# ------------------------------------------------------------------ a run


def test_a_text_is_learned_and_goes_on(trainctl: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "rhyme.txt").write_text("abcdefg" * 230)  # no multiple of the window
    words = [word.lstrip("+") for word in SMALL]
    outcome = trainctl(*words, "dataset.path=rhyme.txt", *QUICK, "epochs=16", "name=rhyme")
    assert outcome.code == 0, outcome.err
    scored = json.loads(trainctl("eval", "rhyme", "--json").out)
    assert scored["recorded"] == scored["values"]
    assert scored["values"]["test/perplexity"] < 1.5
    for words in (("--temperature", "0"), ("--temperature", "0.1", "--seed", "3")):
        outcome = trainctl("predict", "rhyme", "--prompt", "defg", "--length", "12", *words)
        assert outcome.out == "defg" + "abcdefgabcde" + "\n", outcome.err
    one, again, other = (
        trainctl("predict", "rhyme", "--prompt", "a", "--temperature", "9", "--seed", seed).out
        for seed in "112"
    )
    assert one == again != other


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompt", "a", "--input", "x.npz"), "leave out --input and --output"),
        (("--prompt", "a", "--temperature", "hot"), "must be a number of at least 0"),
        (
            (
                "--input",
                "x.txt",
            ),
            "predict needs --output",
        ),
    ],
)
def test_words_of_predict_that_contradict_each_other(
    words: tuple[str, ...], said: str, trainctl: Callable[..., Any]
) -> None:
    outcome = trainctl("predict", "last", *words)
    assert outcome.code == 2
    assert said in outcome.err


@pytest.mark.slow
@pytest.mark.usefixtures("warm_ranks")
def test_devices_accumulation_and_a_fused_sweep_give_the_same_values(trainctl: Callable[..., Any]) -> None:
    words = (*(word.lstrip("+") for word in SMALL), *QUICK, "epochs=1", "dataset.limit=300")
    ways = {"one": (), "two": ("devices=2", "device=cpu"), "cut": ("train.accumulate=2", "batch_size=8")}
    for name, own in ways.items():
        assert trainctl(*words, f"name={name}", *own).code == 0
    one, *others = (json.loads(trainctl("eval", name, "--json").out)["values"] for name in ways)
    for other in others:
        assert other == pytest.approx(one, rel=1e-4)
    assert trainctl("-m", "hydra/launcher=fused", *words, "seed=0,1").code == 0
    fused = json.loads(trainctl("eval", str(next(Path("outputs/sweeps").rglob("0"))), "--json").out)["values"]
    assert fused == pytest.approx(one, rel=1e-4)
    outcome = trainctl("predict", "one", "--input", str(Path(__file__)), "--output", "o.csv")
    assert outcome.code == 2
    assert "use --prompt TEXT, or an .npz file" in outcome.err


def test_targets_are_the_inputs_one_place_on() -> None:
    batch = next(iter(build(Composer().compose(SMALL).config).run.train_loader.batches()))
    assert torch.equal(batch.inputs[:, 1:].to(torch.int64), batch.targets[:, :-1])
