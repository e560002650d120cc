"""From a checked config to a run: parts that fit together, or an error before the first step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from trainctl.config.settings import Component, Config
from trainctl.config.validation import check
from trainctl.data import Data, Split, Standardize
from trainctl.errors import ConfigError
from trainctl.paths import conf_directory
from trainctl.registry import DATASETS, LOSSES, MODELS
from trainctl.training.build import auto_epochs, build, count_steps
from trainctl.training.built import Built
from trainctl.training.construct import build_model, construct
from trainctl.training.loop import fit
from trainctl.training.prepare_data import build_data

SYNTHETIC = {"name": "synthetic", "samples": 100, "test_samples": 20, "shape": [6], "outputs": 3, "val": 20}
REGRESSION = {**SYNTHETIC, "task": "regression"}


def configured(**changes: Any) -> Config:
    """A small run's config: a group's mapping replaces a component and adds to settings."""
    values = yaml.safe_load((conf_directory() / "config.yaml").read_text())
    for entry in values.pop("defaults"):
        group, name = next(iter(entry.items())) if isinstance(entry, dict) else (None, None)
        if group != "hydra" and name is not None and (conf_directory() / group).is_dir():
            values[group] = yaml.safe_load((conf_directory() / group / f"{name}.yaml").read_text())
    values.update(threads=1, device="cpu")
    values.update(
        model={"name": "mlp", "hidden": [8]},
        loss={"name": "cross_entropy"},
        optim={"name": "adam"},
        scheduler={"name": "none"},
        dataset=SYNTHETIC,
    )
    values["train"].update(batch_size=16, epochs=2)
    for key, value in changes.items():
        settings = isinstance(value, Mapping) and "name" not in value
        values[key] = {**values[key], **value} if settings else value
    return check(values)


def refused(config: Config) -> str:
    with pytest.raises(ConfigError) as caught:
        build(config)
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return f"{problem.message} | {problem.remedy}"


def parameters(built: Built) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in built.run.model.parameters()]


def test_a_run_has_all_its_parts() -> None:
    built = build(configured(optim={"name": "sgd", "lr": 0.25}, scheduler={"name": "cosine", "warmup": 2}))
    run = built.run
    assert (built.data.name, len(built.data.train), len(built.data.val or ())) == ("synthetic", 80, 20)
    assert (len(run.train_loader), run.total_steps) == (5, 10)
    assert run.val_loader is not None
    assert built.test is not None
    assert (run.val_loader.samples, built.test.samples) == (20, 20)
    assert built.parameters == built.trainable == 6 * 8 + 8 + 8 * 3 + 3
    assert (built.threads, built.threads_note) == (1, "as asked")
    assert (built.monitor, built.lower_is_better) == ("val/accuracy", False)
    assert set(run.metrics) == {"accuracy"}
    assert run.optimizer.param_groups[0]["lr"] == 0.125
    assert run.scheduler is not None
    assert run.state.step == 0
    fit(run)
    assert run.state.step == 10


def test_regression_is_judged_by_its_loss_and_has_its_metrics() -> None:
    built = build(configured(dataset=REGRESSION, loss={"name": "mse"}, model={"name": "linear"}))
    assert (built.monitor, built.lower_is_better) == ("val/loss", True)
    assert set(built.run.metrics) == {"mse", "mae", "r2"}


def test_without_validation_and_with_a_constant_rate() -> None:
    built = build(configured(dataset={**SYNTHETIC, "val": 0}))
    assert built.run.val_loader is None
    assert built.run.scheduler is None
    assert len(built.data.train) == 100


def test_one_seed_gives_one_run_and_another_another() -> None:
    """Parameters, order of the data and the random numbers still to come."""
    runs = [build(configured(seed=seed)) for seed in (5, 5, 6)]
    first, again, other = (
        [*parameters(each), next(iter(each.run.train_loader.batches()))[0]] for each in runs
    )
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first[::2], other[::2]))


def test_the_seed_does_not_move_the_validation_data() -> None:
    splits = [build(configured(seed=seed)).data.val for seed in (5, 6)]
    assert splits[0] is not None
    assert splits[1] is not None
    assert torch.equal(splits[0].inputs, splits[1].inputs)


def test_measuring_threads_changes_nothing_of_the_run() -> None:
    torch.set_num_threads(2)
    model = {"name": "mlp", "hidden": [8], "dropout": 0.5, "normalization": "batch"}
    measured = build(configured(threads="auto", model=model))
    state = torch.get_rng_state()
    assert measured.threads_note.startswith("measured")
    fixed = build(configured(threads=1, model=model))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, parameters(measured), parameters(fixed)))
    for name, value in measured.run.model.state_dict().items():
        assert torch.equal(value, fixed.run.model.state_dict()[name])
    assert not measured.run.optimizer.state


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"),
    [(3, None, 15), (None, 7, 7), (3, 7, 7), (3, 99, 15), (1, 5, 5), ("auto", None, 100), ("auto", 7, 7)],
)
def test_steps_are_epochs_times_batches_at_most_max_steps(
    epochs: int | str | None, max_steps: int | None, steps: int
) -> None:
    config = configured(train={"epochs": epochs, "max_steps": max_steps})
    assert count_steps(config.train, build_data(config.dataset), 5) == steps


def test_a_small_table_is_trained_on_for_more_epochs() -> None:
    table = replace(build_data(configured().dataset), reading={"kind": "table"})
    assert [auto_epochs(table, batches) for batches in (1, 50, 100, 141, 500, 9000)] == [
        200,
        200,
        100,
        71,
        20,
        20,
    ]


def test_a_constructor_gets_what_it_asks_for_and_no_more() -> None:
    got: list[dict[str, Any]] = []

    @MODELS.register("picky")
    def picky(output_size: int, size: int = 3, **kwargs: Any) -> None:
        got.append({"output_size": output_size, "size": size, **kwargs})

    construct(Component("model", "picky", {"size": 4}), input_shape=(2,), output_size=9)
    assert got == [{"output_size": 9, "size": 4}]


# ---------------------------------------------------------------- what is refused


def test_a_model_that_does_not_take_the_data_is_refused_with_the_shape() -> None:
    @MODELS.register("images_only")
    class ImagesOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.conv(inputs).flatten(1)  # type: ignore[no-any-return]

    text = refused(configured(model={"name": "images_only"}))
    assert "model=images_only does not take inputs of shape (N, 6)" in text
    assert "dataset=synthetic gives that shape" in text


@pytest.mark.parametrize("where", [0, 40])
def test_a_token_without_a_row_is_named_before_it_is_looked_up(where: int) -> None:
    """On a GPU such a lookup is an assertion that ends all use of the device. 40 is in no first batch."""

    @MODELS.register("ten_rows")
    class TenRows(nn.Module):
        def __init__(self, output_size: int) -> None:
            super().__init__()
            self.embedding, self.linear = nn.Embedding(10, 4), nn.Linear(4, output_size)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.linear(self.embedding(tokens).mean(1))  # type: ignore[no-any-return]

    @DATASETS.register("tokens_to_twelve")
    def tokens_to_twelve() -> Data:
        tokens = torch.arange(100).remainder(10).repeat(6, 1).T.contiguous()
        tokens[where, 3] = 12
        split = Split(tokens, torch.arange(100).remainder(2))
        return Data("tokens", "classification", split, None, (6,), 2, nn.Identity())

    config = configured(model={"name": "ten_rows"}, dataset={"name": "tokens_to_twelve", "val": 0})
    assert (
        "model=ten_rows does not take inputs of shape (N, 6): token 12 is outside of its embedding, 0 to 9"
        in (refused(config))
    )


class Fixed(nn.Module):
    """One trained number, and outputs of a shape of its own."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.make = make

    def forward(self, inputs: Tensor) -> Any:
        return self.make(inputs.flatten(1).sum(1, keepdim=True) * self.weight)


def register_fixed(make: Any) -> dict[str, str]:
    @MODELS.register("fixed")
    def fixed() -> nn.Module:
        return Fixed(make)

    return {"name": "fixed"}


@pytest.mark.parametrize(
    ("outputs", "task", "loss", "says"),
    [
        (lambda x: x.squeeze(1), REGRESSION, "mse", ["(N,)", "(N, 1)"]),
        (lambda x: x.expand(-1, 5), REGRESSION, "mse", ["(N, 5)", "(N, 1)"]),
        (
            lambda x: x.expand(-1, 5),
            SYNTHETIC,
            "cross_entropy",
            ["(N, 5)", "must give outputs of shape (N, 3)"],
        ),
        (lambda x: x.squeeze(1), SYNTHETIC, "cross_entropy", ["(N,)", "must give outputs of shape (N, 3)"]),
        (lambda x: x.expand(-1, 3), SYNTHETIC, "mse", ["int64", "use loss=cross_entropy"]),
        (lambda x: x.expand(-1, 3), SYNTHETIC, "nll", ["needs log-probabilities", "use loss=cross_entropy"]),
        (lambda x: x, REGRESSION, "cross_entropy", ["float32", "use loss=mse"]),
        (lambda x: (x, x), REGRESSION, "mse", ["returns a tuple"]),
        (lambda x: {"outputs": x}, REGRESSION, "mse", ["returns a dict"]),
    ],
)
def test_outputs_that_do_not_fit_are_refused_with_both_shapes(
    outputs: Any, task: dict[str, Any], loss: str, says: list[str]
) -> None:
    """(N,) against (N, 1) would broadcast to (N, N) and train on."""
    dataset = {**task, "outputs": 1} if task is REGRESSION else task
    text = refused(configured(model=register_fixed(outputs), dataset=dataset, loss={"name": loss}))
    assert "fixed" in text or f"loss={loss}" in text
    assert all(part in text for part in says), text


class Odd(nn.Linear):
    """Six numbers to three classes, in some way that a run cannot take."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.register_buffer("kept", torch.ones(2, dtype=getattr(self, "dtype", None)))


class TupleInTraining(Odd):
    def forward(self, inputs: Tensor) -> Any:
        return (super().forward(inputs), None) if self.training else super().forward(inputs)


class WiderInTraining(Odd):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        return torch.cat([outputs, outputs], 1) if self.training else outputs


class AnotherState(Odd):
    def state_dict(self, *words: Any, **named: Any) -> Any:
        return {**super().state_dict(*words, **named), "more": torch.ones(1)}


class Growing(Odd):
    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.late = nn.Linear(1, 1)
        return super().forward(inputs)


class Detached(Odd):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).detach()


class WithText(Odd):
    def get_extra_state(self) -> Any:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None: ...


class OnlyGet(Odd):
    def get_extra_state(self) -> Tensor:
        return torch.ones(2)


class Double(Odd):
    dtype = torch.complex128


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (TupleInTraining, "odd returns a tuple in training mode, not one tensor"),
        (WiderInTraining, "odd gives (N, 6) in training mode, else (N, 3) | both must be the same"),
        (AnotherState, "odd does not take its own state back"),
        (Growing, "odd changes its parameters in training mode: late.bias"),
        (Detached, "odd: the loss depends on no parameter that trains"),
        (WithText, "odd: its state _extra_state is dict, not a tensor"),
        (OnlyGet, "odd has a get_extra_state, and no set_extra_state that takes it back"),
        (Double, "odd: kept is complex128, which a checkpoint cannot hold | complex64 can"),
    ],
)
def test_a_model_that_a_run_cannot_take_is_refused(model: Any, says: str) -> None:
    MODELS.register("odd")(lambda: model())
    assert f"model={says}" in refused(configured(model={"name": "odd"}))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda outputs, targets: 1.0, "odd gives a float, not a tensor with one number"),
        (lambda outputs, targets: (outputs.sum(), outputs), "odd gives a tuple, not a tensor"),
        (lambda outputs, targets: torch.tensor(1.0), "the loss depends on no parameter that trains"),
    ],
)
def test_a_loss_that_cannot_be_minimized_is_refused(loss: Any, says: str) -> None:
    @LOSSES.register("odd")
    class Own(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Any:
            return loss(outputs, targets)

    assert says in refused(configured(loss={"name": "odd"}))


def test_a_loss_that_changes_its_targets_is_refused() -> None:
    @LOSSES.register("changing")
    class Changing(nn.CrossEntropyLoss):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return super().forward(outputs, targets.clamp_(max=1))

    assert "loss=changing changes its targets in place" in refused(configured(loss={"name": "changing"}))


@pytest.mark.parametrize(("name", "says"), [("changes", "changed in place"), ("keeps", "of the step before")])
def test_what_keeps_torch_from_gradients_is_said(name: str, says: str, trainctl) -> None:
    class Own(nn.Linear):
        kept: Any = 0

        def forward(self, inputs: Tensor) -> Tensor:
            outputs = super().forward(inputs.flatten(1))
            if name == "changes":
                outputs = outputs.sigmoid()
                return outputs.mul_(2)
            if self.training:
                outputs = outputs + self.kept
                self.kept = outputs.mean(0)
            return outputs

    MODELS.register("own")(lambda: Own(64, 10))
    outcome = trainctl("model.name=own", "threads=1", "train.max_steps=3", "display.mode=none")
    assert (outcome.code, says in outcome.err) == (2, True), outcome.err


def test_a_loss_that_is_no_single_number_is_refused() -> None:
    @LOSSES.register("unreduced")
    class Unreduced(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).square()

    config = configured(loss={"name": "unreduced"}, dataset=REGRESSION)
    assert "loss=unreduced gives a value of shape (2, 3), not a tensor with one number" in refused(config)


def test_a_loss_of_ones_own_that_would_broadcast_is_refused() -> None:
    @LOSSES.register("broadcasting")
    class Broadcasting(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.mse_loss(outputs, targets)

    config = configured(
        loss={"name": "broadcasting"},
        dataset={**REGRESSION, "outputs": 1},
        model=register_fixed(lambda x: x.squeeze(1)),
    )
    assert "does not fit outputs of shape (N,)" in refused(config)


def test_what_is_no_model_and_no_dataset_is_refused() -> None:
    MODELS.register("number")(lambda: 3)
    with pytest.raises(ConfigError, match="model=number built a int"):
        build_model(Component("model", "number"), (3,), 2)
    DATASETS.register("list")(lambda: [1])
    with pytest.raises(ConfigError, match=r"dataset list: train\[0\] is a int, not an input and its target"):
        build_data(Component("dataset", "list", {}, {"val": 0, "split_seed": 0}))


def test_a_model_without_parameters_is_refused() -> None:
    text = refused(configured(model={"name": "sequential", "layers": ["Flatten"]}))
    assert "model=sequential has no parameters to train" in text


def test_frozen_parameters_are_counted_and_not_trained() -> None:
    @MODELS.register("half_frozen")
    class HalfFrozen(nn.Module):
        def __init__(self, output_size: int) -> None:
            super().__init__()
            self.body = nn.Linear(6, 4).requires_grad_(False)
            self.head = nn.Linear(4, output_size)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.body(inputs))  # type: ignore[no-any-return]

    built = build(configured(model={"name": "half_frozen"}))
    assert (built.parameters, built.trainable) == (28 + 15, 15)
    model: Any = built.run.model
    body, head = model.body.weight.clone(), model.head.weight.clone()
    fit(built.run)
    assert torch.equal(model.body.weight, body)
    assert not torch.equal(model.head.weight, head)


def test_a_dataset_with_its_own_validation_split_keeps_it() -> None:
    @DATASETS.register("split")
    def split() -> Data:
        part = Split(torch.zeros(10, 2), torch.zeros(10, dtype=torch.int64))
        return Data("split", "classification", part, None, (2,), 2, Standardize(), val=part[:3])

    built = build_data(Component("dataset", "split", {}, {"val": 0.5, "split_seed": 0}))
    assert len(built.train) == 10
    assert len(built.val or ()) == 3


@pytest.mark.parametrize(
    ("size", "accumulate", "batches"), [(1000, 1, 1), (60, 2, 1), (80, 1, 1), (79, 1, 2)]
)
def test_a_batch_may_hold_more_than_the_whole_split(size: int, accumulate: int, batches: int) -> None:
    built = build(configured(train={"batch_size": size, "accumulate": accumulate}))
    assert len(built.run.train_loader) == batches
    assert built.run.total_steps == 2 * batches
    fit(built.run)
    assert built.run.state.step == 2 * batches


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    assert "device=cuda" in refused(configured(device="cuda"))


def test_arguments_that_torch_refuses_together_are_a_config_error() -> None:
    text = refused(configured(optim={"name": "sgd_momentum", "momentum": 0, "nesterov": True}))
    assert "optim" in text
    assert "momentum" in text.lower()


@pytest.mark.parametrize("key", ["seed", "split_seed", "data_seed"])
def test_every_seed_that_is_taken_can_be_used(key: str) -> None:
    """Up to the largest one; what torch cannot use is refused with the config."""

    def config(seed: int) -> Config:
        return configured(**({"seed": seed} if key == "seed" else {"dataset": {**SYNTHETIC, key: seed}}))

    build(config(2**63 - 1))
    with pytest.raises(ConfigError, match=f"{key}={2**63}: must be"):
        config(2**63)


@pytest.mark.parametrize("batch_size", [1, 79])
def test_batch_normalization_with_a_batch_of_one_is_refused_before_the_first_step(batch_size: int) -> None:
    """80 samples in batches of 79 leave a last batch of one, which has no variance."""
    config = configured(model={"name": "mlp", "normalization": "batch"}, train={"batch_size": batch_size})
    assert "batch" in refused(config)


def test_building_leaves_the_config_as_it_was() -> None:
    config = configured(scheduler={"name": "cosine"})
    before = copy.deepcopy(config)
    build(config)
    assert config == before


def test_a_limit_takes_samples_from_all_of_each_split(trainctl) -> None:
    common = {"val": 0.25, "split_seed": 0}
    whole = build_data(Component("dataset", "digits", {}, common))
    data = build_data(Component("dataset", "digits", {}, {**common, "limit": 40}))
    for few, all_of in ((data.train, whole.train), (data.val, whole.val), (data.test, whole.test)):
        assert len(few) == 40
        places = [number * len(all_of) // 40 for number in range(40)]
        assert torch.equal(few.inputs, all_of.inputs[places])
        assert torch.equal(few.targets, all_of.targets[places])
    readings = build_data(Component("dataset", "thermometer", {}, {**common, "val": 0, "limit": 40}))
    assert len(readings.train) == 11
    outcome = trainctl("dataset.limit=0")
    assert outcome.code == 2
    assert "dataset.limit=0: must be" in outcome.err


def test_what_does_nothing_is_said() -> None:
    assert (
        "train.min_delta=0.01 does nothing without train.patience"
        in build(configured(train={"min_delta": 0.01})).notices
    )
    assert not build(configured(train={"min_delta": 0.01, "patience": 3})).notices
