"""Every rung takes the same steps as the standard loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainctl.cli.main import main
from trainctl.components.models.linear import Linear
from trainctl.config.composer import Composer
from trainctl.lessons.rungs.derivatives import Derivatives

THERMOMETER = ("experiment=thermometer", "threads=1", "display.mode=none")
MNIST = (
    "experiment=mnist_rungs",
    "model.dropout=0",
    "train.max_steps=120",
    "train.epochs=1",
    "threads=1",
    "display.mode=none",
)
BY_HAND = ("derivatives", "autograd", "layers", "parameters")


def losses(directory: str) -> list[float]:
    lines = map(json.loads, Path(directory, "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def last(directory: str) -> dict:
    return json.loads(Path(directory, "run.json").read_text())["last"]


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standard") / "run"
    assert main([*THERMOMETER, "train.epochs=1000", f"hydra.run.dir={folder}"]) == 0
    return losses(str(folder))


class TestSameLosses:
    @pytest.mark.quick(1)
    @pytest.mark.parametrize("loop", ["autograd", "layers", "parameters", "lightning"])
    def test_on_the_thermometer_line_bit_for_bit(self, loop, standard, trainctl) -> None:
        steps = 1000 if loop != "lightning" else 100
        done = trainctl(*THERMOMETER, f"loop={loop}", f"train.epochs={steps}", "hydra.run.dir=run")
        assert done.code == 0
        assert losses("run") == standard[:steps]

    def test_with_the_derivatives_by_hand_to_rounding(self, standard, trainctl) -> None:
        # The sums of a derivative are taken in another order than autograd's: each step rounds differently.
        assert trainctl(*THERMOMETER, "loop=derivatives", "train.epochs=1000", "hydra.run.dir=run").code == 0
        assert losses("run") == pytest.approx(standard, rel=1e-4)

    @pytest.mark.slow
    def test_on_the_mnist_network_bit_for_bit(self, mnist_root, trainctl) -> None:
        words = (*MNIST, "optim=sgd", f"dataset.root={mnist_root}")
        for loop in ("optimizer", "layers", "parameters", "lightning"):
            assert trainctl(*words, f"loop={loop}", f"hydra.run.dir={loop}").code == 0
        standard = losses("optimizer")
        assert len(standard) == 120
        assert standard[-1] < standard[0] / 2
        for loop in ("layers", "parameters", "lightning"):
            assert losses(loop) == standard
            # The evaluation after them, too: the parameters are the same.
            assert last(loop) == last("optimizer")

    @pytest.mark.slow
    def test_under_lightning_with_adam_dropout_and_a_schedule(self, mnist_root, trainctl) -> None:
        words = ("experiment=mnist_rungs", f"dataset.root={mnist_root}", "scheduler=cosine")
        words += ("train.max_steps=60", "threads=1", "display.mode=none")
        for loop in ("optimizer", "lightning"):
            assert trainctl(*words, f"loop={loop}", f"hydra.run.dir={loop}").code == 0
        metrics = [
            Path(loop, "metrics.jsonl").read_text().splitlines() for loop in ("optimizer", "lightning")
        ]
        steps = [[line for line in lines if "train/loss" in line] for lines in metrics]
        assert steps[0] == steps[1]
        assert len({json.loads(line)["lr"] for line in steps[0]}) > 50

    @pytest.mark.parametrize("loop", ["layers", "parameters", "lightning"])
    @pytest.mark.slow
    def test_with_frozen_parameters(self, loop, trainctl) -> None:
        words = ("model.freeze=[layers.0.*]", "optim=sgd", "train.epochs=1", "threads=1", "display.mode=none")
        for name in ("optimizer", loop):
            assert trainctl(*words, f"loop={name}", f"hydra.run.dir={name}").code == 0
        assert losses(loop) == losses("optimizer")


@pytest.mark.parametrize("bias", [True, False])
def test_the_derivatives_by_hand_are_autograds(bias) -> None:
    torch.manual_seed(0)
    for _ in range(20):
        model = Linear((5,), 3, bias=bias).double()
        criterion = torch.nn.MSELoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        inputs, targets = torch.randn(7, 5).double(), torch.randn(7, 3).double()
        loss = criterion(model(inputs), targets)
        expected = torch.autograd.grad(loss, list(model.parameters()))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        given = Derivatives.step(model, criterion, optimizer, inputs, targets, None)
        assert given.item() == pytest.approx(loss.item(), abs=1e-12)
        for old, parameter, gradient in zip(before, model.parameters(), expected, strict=True):
            torch.testing.assert_close(old - parameter.detach(), gradient, atol=1e-6, rtol=0)


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("loop=derivatives",), "optim=adam"),
            (
                ("loop=derivatives", "optim=sgd"),
                "loop=derivatives requires model=linear, all of it trained, not model=mlp",
            ),
            (("loop=autograd", "optim=sgd"), "model=mlp"),
            (("loop=derivatives", "optim=sgd", "model=linear"), "loss=cross_entropy"),
            (("loop=derivatives", *THERMOMETER, "loss=l1"), "loss=l1"),
            (("loop=derivatives", *THERMOMETER, "train.precision=bf16"), "train.precision=bf16"),
            (("loop=layers", "optim=sgd_momentum"), "optim=sgd_momentum"),
            (("loop=layers", "optim=sgd", "optim.weight_decay=0.1"), "optim.weight_decay=0.1"),
            (("loop=parameters", "optim=sgd", "scheduler=cosine"), "scheduler=cosine"),
            (("loop=parameters", "optim=sgd", "train.accumulate=2"), "train.accumulate=2"),
            (("loop=parameters", "optim=sgd", "train.clip_norm=1"), "train.clip_norm=1"),
            (("loop=lightning", "train.accumulate=2"), "train.accumulate=2"),
            (("loop=lightning", "train.clip_norm=1"), "train.clip_norm=1"),
            (("loop=lightning", "model=scratch_mlp"), "torch.nn.Module"),
            (("loop=lightning", "optim=scratch_sgd"), "torch.optim.Optimizer"),
            (("scheduler=cosine", "optim=scratch_sgd"), "scheduler=cosine needs an optimizer of torch"),
            (("loop=derivates",), "did you mean loop=derivatives"),
        ],
    )
    @pytest.mark.slow
    def test_with_the_reason(self, words, said, trainctl) -> None:
        done = trainctl(*words, "hydra.run.dir=run")
        assert done.code == 2
        assert said in done.err
        assert len(done.err.strip().splitlines()) <= 2

    @pytest.mark.slow
    def test_layers_refuses_a_parameter_it_would_never_update(self, trainctl) -> None:
        Path("my_net.py").write_text(
            "import torch\nfrom trainctl.registry import MODELS\n\n\n@MODELS.register('my_net')\n"
            "class MyNet(torch.nn.Module):\n"
            "    def __init__(self, output_size):\n"
            "        super().__init__()\n"
            "        self.scale = torch.nn.Parameter(torch.ones(output_size))\n"
            "    def forward(self, inputs):\n"
            "        return inputs.flatten(1)[:, :10] * self.scale\n"
        )
        words = ("plugins=[./my_net.py]", "model.name=my_net", "optim=sgd", "train.max_steps=2")
        done = trainctl(*words, "loop=layers", "hydra.run.dir=a")
        assert done.code == 2
        assert "not scale; use loop=parameters" in done.err
        assert trainctl(*words, "loop=parameters", "hydra.run.dir=b").code == 0

    def test_lightning_when_it_is_not_installed(self, trainctl, monkeypatch) -> None:
        import importlib.util

        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: None if name == "lightning" else find(name, *rest),
        )
        done = trainctl("loop=lightning", "hydra.run.dir=run")
        assert done.code == 2
        assert "pip install 'trainctl[lightning]'" in done.err


@pytest.mark.parametrize("loop", [*BY_HAND, "lightning"])
@pytest.mark.slow
def test_it_says_that_it_does_not_resume(loop, trainctl) -> None:
    done = trainctl("experiment=thermometer", f"loop={loop}", "train.epochs=2", "hydra.run.dir=run")
    assert done.code == 0
    assert f"loop={loop} does not resume" in done.out
    assert f"loop={loop} does not resume" in Path("run", "train.log").read_text()


@pytest.mark.slow
def test_a_bad_loss_stops_every_rung_with_exit_6(trainctl) -> None:
    for loop in ("derivatives", "autograd", "layers", "parameters", "lightning"):
        words = ("experiment=thermometer", "optim.lr=1e9", "display.mode=none", "train.epochs=100")
        done = trainctl(*words, f"loop={loop}", f"hydra.run.dir={loop}")
        assert done.code == 6, (loop, done.err)


@pytest.mark.slow
def test_early_stopping_reaches_lightning(trainctl) -> None:
    words = (
        "loop=lightning",
        "train.epochs=30",
        "train.patience=1",
        "train.min_delta=0.9",
        "display.mode=none",
    )
    assert trainctl(*words, "hydra.run.dir=run").code == 0
    record = json.loads(Path("run", "run.json").read_text())
    assert "no better val/accuracy" in record["reason"]
    assert record["last"]["epoch"] < 30


def test_the_experiments_compose() -> None:
    composer = Composer()
    config = composer.compose(["experiment=supervised_lightning"]).config
    typical = composer.compose(["experiment=supervised"]).config
    assert config.loop.name == "lightning"
    assert (config.model, config.optim, config.train) == (typical.model, typical.optim, typical.train)
