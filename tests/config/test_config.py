"""The check of a composed config: every problem found, each once, in words."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from tests.helpers.configs import GROUPS, base, changed, option, problems_of
from trainctl.config.settings import Component
from trainctl.config.validation import check, check_component, known_keys, unknown_key
from trainctl.errors import Problem
from trainctl.paths import conf_directory
from trainctl.registry import COMPONENTS, MODELS, SCHEDULERS
from trainctl.registry import constraints as ranges
from trainctl.registry.constraints import describe, show


def test_the_base_config_is_right() -> None:
    config = check(base())
    assert config.seed == 0
    assert config.threads == "auto"
    assert config.train.batch_size == 64
    assert (config.model.group, config.model.name) == ("model", "mlp")
    assert config.model.arguments == {
        "hidden": [128, 64],
        "activation": "relu",
        "dropout": 0.0,
        "normalization": "none",
    }
    assert (config.dataset.name, config.dataset.arguments) == ("digits", {})
    assert config.dataset.common == {
        "as_task": None,
        "augment": (),
        "limit": None,
        "val": 0.15,
        "split_seed": 0,
        "folds": None,
        "fold": None,
        "label_noise": 0.0,
        "sampling": "uniform",
        "mixup": None,
        "cutmix": None,
        "scale_target": "auto",
    }


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (group, path.stem)
        for group in COMPONENTS
        for path in sorted((conf_directory() / group).glob("*.yaml"))
    ],
)
def test_every_option_that_ships_is_right(group: str, name: str) -> None:
    """Nothing is wrong with it; a required argument that only the user knows may be missing."""
    registry = COMPONENTS[group]
    problems: list[Problem] = []
    chosen = check_component(registry, option(group, name), problems)
    required = {each.name for each in registry.signature(name).parameters if each.required}
    assert [problem.message.partition(" is missing")[0] for problem in problems] == [
        f"{group}.{key}" for key in required if key not in option(group, name)
    ]
    assert problems or (chosen is not None and chosen.name == name)


@pytest.mark.parametrize(
    "path", sorted((conf_directory() / "guard").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_guard_that_ships_is_right(path: Any) -> None:
    check({**base(), "guard": option("guard", path.stem)})


COUNT = "a whole number of at least 1"
AMOUNT = "a number greater than 0 and below 1 or a whole number of at least 0"
SEED = "a whole number of at least 0 and below 2**63"
COMPILE = "true or false or one of default, reduce-overhead, max-autotune"
THREADS = f"auto or {COUNT} and of at most 1024"
METRICS_TEXT = "auto, or a list such as [accuracy, {top_k_accuracy: {k: 3}}]"
BAD_SETTINGS: list[tuple[str, Any, str, str]] = [
    ("seed", -1, "-1", SEED),
    ("seed", 2**63, str(2**63), SEED),
    ("seed", True, "true", SEED),
    ("device", "gpu", "gpu", "auto, cpu, cuda, cuda:N or mps"),
    ("device", "cuda:x", "cuda:x", "auto, cpu, cuda, cuda:N or mps"),
    ("device", "cpu\n", "cpu\n", "auto, cpu, cuda, cuda:N or mps"),
    ("devices", 0, "0", THREADS),
    ("threads", 0, "0", THREADS),
    ("threads", True, "true", THREADS),
    ("deterministic", "yes", "yes", "true or false"),
    ("compile", "fast", "fast", COMPILE),
    ("profile", "yes", "yes", "true or false"),
    ("name", 5, "5", "text or null"),
    ("init_from", 5, "5", "text or null"),
    ("plugins", "a.py", "a.py", "a list in which each item is text"),
    ("plugins", [1], "[1]", "a list in which each item is text"),
    ("pictures", "no", "no", "true or false"),
    ("system_metrics", 0, "0", "a number greater than 0 or null"),
    ("train.epochs", 0, "0", f"auto or {COUNT} or null"),
    ("train.epochs", "3", "3", f"auto or {COUNT} or null"),
    ("train.max_steps", -5, "-5", f"{COUNT} or null"),
    ("train.batch_size", 0, "0", COUNT),
    ("train.batch_size", {"a": 1}, "{a: 1}", COUNT),
    ("train.accumulate", 0, "0", COUNT),
    ("train.micro_batch", 0, "0", f"auto or {COUNT} or null"),
    ("train.activation_checkpoint", "layers", "layers", "a list in which each item is text"),
    ("train.metrics", "accuracy", "accuracy", METRICS_TEXT),
    ("train.precision", "fp16", "fp16", "one of fp32, bf16"),
    ("train.matmul", "tf32", "tf32", "one of highest, high, medium"),
    ("train.capture", "graph", "graph", "true or false or auto"),
    ("train.clip_norm", 0, "0", "a number greater than 0 or null"),
    ("train.clip_norm", math.inf, "inf", "a number greater than 0 or null"),
    ("train.clip_norm", True, "true", "a number greater than 0 or null"),
    ("train.ema", 0, "0", "a number greater than 0 and below 1 or null"),
    ("train.ema", 1.0, "1.0", "a number greater than 0 and below 1 or null"),
    ("train.overfit_batches", 0, "0", f"{COUNT} or null"),
    ("train.monitor", "train/loss", "train/loss", "auto, or val/METRIC"),
    ("train.monitor", "val/", "val/", "auto, or val/METRIC"),
    ("train.patience", 0, "0", f"{COUNT} or null"),
    ("train.min_delta", math.nan, "nan", "a number of at least 0"),
    ("checkpoint.every_epochs", 0, "0", f"auto or {COUNT} or null"),
    ("checkpoint.every_steps", 0, "0", f"{COUNT} or null"),
    ("checkpoint.every_minutes", 0, "0", "a number greater than 0 or null"),
    ("checkpoint.keep_best", 0, "0", COUNT),
    ("checkpoint.overlap", "no", "no", "true or false"),
    ("checkpoint.mirror", "bucket", "bucket", "a URL such as s3://BUCKET/FOLDER, or null"),
    ("guard.gradients", 1, "1", "true or false"),
    ("sweep.jobs", 0, "0", "auto or a whole number of at least 1 and of at most 1024"),
    ("sweep.fail_fast", "no", "no", "true or false"),
    ("strategy.name", "dp", "dp", "ddp or fsdp"),
    ("strategy.bucket_mb", 0, "0", "a number greater than 0"),
    ("strategy.find_unused", "no", "no", "true or false"),
    ("strategy.timeout", 0, "0", "a number greater than 0"),
    ("guard.skip", -1, "-1", "a whole number of at least 0"),
    ("checkpoint.keep_last", 0, "0", COUNT),
    ("guard.loss", "no", "no", "true or false"),
    ("display.mode", "loud", "loud", "one of auto, rich, plain, none"),
    ("display.every", 0, "0", f"{COUNT} or null"),
]


@pytest.mark.parametrize(("key", "value", "shown", "needed"), BAD_SETTINGS)
def test_a_bad_setting_is_one_problem_with_key_value_and_range(
    key: str, value: Any, shown: str, needed: str
) -> None:
    (problem,) = problems_of(changed(key, value))
    assert problem.message == f"{key}={shown}: must be {needed}"


def test_every_setting_refuses_a_wrong_value_somewhere_above() -> None:
    settings = [f"{group}.{key}" for group in GROUPS if group not in COMPONENTS for key in base()[group]]
    top = [key for key in base() if key not in GROUPS]
    assert {key for key, *_ in BAD_SETTINGS} == {*settings, *top}


BAD_ARGUMENTS: list[tuple[str, Any, str, str, str]] = [
    ("model.hidden", 128, "128", f"a list in which each item is {COUNT}", "[128, 64]"),
    ("model.hidden", [128, 0], "[128, 0]", f"a list in which each item is {COUNT}", "[128, 64]"),
    ("model.hidden", [1.5, True], "[1.5, true]", f"a list in which each item is {COUNT}", "[128, 64]"),
    ("model.dropout", 1.0, "1.0", "a number of at least 0 and below 1", "0.0"),
    ("model.normalization", "group", "group", "one of none, batch, layer", "none"),
    ("optim.lr", "fast", "fast", "a number greater than 0", "0.001"),
    ("optim.lr", math.inf, "inf", "a number greater than 0", "0.001"),
    ("optim.lr", None, "null", "a number greater than 0", "0.001"),
    ("optim.betas", [0.9], "[0.9]", "a list of 2, each a number of at least 0 and below 1", "[0.9, 0.999]"),
    (
        "optim.betas",
        [0.9, 1.0],
        "[0.9, 1.0]",
        "a list of 2, each a number of at least 0 and below 1",
        "[0.9, 0.999]",
    ),
    ("optim.amsgrad", 1, "1", "true or false", "false"),
    ("optim.fused", "yes", "yes", "true or false or null", "null"),
    ("dataset.val", 1.0, "1.0", AMOUNT, "0.15"),
    ("dataset.val", True, "true", AMOUNT, "0.15"),
    ("dataset.split_seed", 2**63, str(2**63), SEED, "0"),
]


@pytest.mark.parametrize(("key", "value", "shown", "needed", "default"), BAD_ARGUMENTS)
def test_a_bad_argument_is_one_problem_with_key_value_range_and_default(
    key: str, value: Any, shown: str, needed: str, default: str
) -> None:
    (problem,) = problems_of(changed(key, value))
    assert problem.message == f"{key}={shown}: must be {needed}"
    assert problem.remedy == f"default: {default}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.lr", 1),
        ("optim.betas", [0, 0.5]),
        ("optim.fused", None),
        ("model.hidden", []),
        ("train.clip_norm", 1),
        ("train.min_delta", 0),
        ("train.epochs", 10**6),
        ("train.monitor", "val/loss"),
        ("device", "cuda:11"),
        ("threads", 3),
        ("dataset.val", 0),
        ("dataset.val", 0.5),
        ("dataset.val", 500),
        ("plugins", ["a.b", "./c.py"]),
    ],
)
def test_a_right_value_is_taken(key: str, value: Any) -> None:
    check(changed(key, value))


def test_a_list_becomes_the_tuple_that_the_signature_asks_for() -> None:
    assert check(changed("optim.betas", [0.8, 0.9])).optim.arguments["betas"] == (0.8, 0.9)


def test_only_what_was_given_is_passed_to_a_component() -> None:
    """The constructor's own defaults stay the constructor's."""
    values = base()
    values["optim"] = {"name": "adam"}
    assert check(values).optim.arguments == {}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.epoch", "train.epochs"),
        ("train.batchsize", "train.batch_size"),
        ("checkpoint.keep", "checkpoint.keep_last"),
        ("sede", "seed"),
        ("modell", "model"),
        ("trian", "train"),
    ],
)
def test_an_unknown_key_gets_the_nearest(key: str, nearest: str) -> None:
    (problem,) = problems_of(changed(key, 3))
    assert problem.message == f"{key}: there is no such key"
    assert f"did you mean {nearest}?" in problem.remedy
    assert unknown_key(key) == problem


def test_a_key_near_nothing_is_told_where_all_are() -> None:
    assert unknown_key("qqqqqq").remedy == "trainctl --cfg job shows all keys"


@pytest.mark.parametrize(
    ("key", "owner", "nearest"),
    [
        ("model.hiden", "model mlp", "model.hidden"),
        ("optim.learning_rate", "optimizer adam", None),
        ("optim.beta", "optimizer adam", "optim.betas"),
        ("loss.smoothing", "loss auto", "loss.label_smoothing"),
        ("dataset.split_sed", "dataset digits", "dataset.split_seed"),
    ],
)
def test_an_unknown_argument_names_its_component_and_the_nearest(
    key: str, owner: str, nearest: str | None
) -> None:
    (problem,) = problems_of(changed(key, 3))
    assert problem.message == f"{key}=3: {owner} has no argument {key.partition('.')[2]!r}"
    assert f"{owner} takes: " in problem.remedy
    if nearest:
        assert f"did you mean {nearest}?" in problem.remedy


def test_a_component_without_arguments_says_so() -> None:
    (problem,) = problems_of(changed("scheduler.warmup", 3))
    assert problem.remedy == "scheduler none takes no arguments"


@pytest.mark.parametrize(
    "key", ["model.input_shape", "model.output_size", "optim.parameters", "scheduler.total_steps"]
)
def test_what_trainctl_supplies_cannot_be_set(key: str) -> None:
    (problem,) = problems_of(changed(key, [3]))
    assert problem.message == f"{key}=[3]: trainctl sets this itself"
    assert problem.remedy == f"leave {key} out"


def test_a_missing_argument_is_named_with_what_it_takes() -> None:
    values = base()
    values["model"] = {"name": "sequential"}
    (problem,) = problems_of(values)
    assert problem.message == "model.layers is missing: model sequential needs it"
    assert problem.remedy == "set model.layers=… to a list in which each item is any value"


def test_a_missing_setting_is_named() -> None:
    values = base()
    del values["train"]["batch_size"]
    (problem,) = problems_of(values)
    assert problem.message == "train.batch_size is missing"
    assert COUNT in problem.remedy


@pytest.mark.parametrize(
    ("group", "value", "message"),
    [
        ("train", 5, "train=5: this is a group of settings, not a value"),
        ("train", None, "train=null: a run needs this group"),
        ("model", "mlp", "model=mlp: this is a group of settings, not a value"),
        ("model", None, "model=null: a run needs this group"),
        ("optim", [1], "optim=[1]: this is a group of settings, not a value"),
    ],
)
def test_a_group_that_is_no_group(group: str, value: Any, message: str) -> None:
    (problem,) = problems_of({**base(), group: value})
    assert problem.message == message
    assert problem.remedy


def test_a_scheduler_of_null_is_told_how_to_turn_it_off() -> None:
    (problem,) = problems_of({**base(), "scheduler": None})
    assert problem.remedy.startswith("scheduler=none turns it off")


@pytest.mark.parametrize("node", [{"name": "mpl"}, {"name": 3}, {"name": None}, {"hidden": [3]}])
def test_a_component_that_is_not_there(node: dict[str, Any]) -> None:
    (problem,) = problems_of({**base(), "model": node})
    assert "there is no such model" in problem.message
    assert "mlp" in problem.remedy


def test_epochs_and_max_steps_may_not_both_be_null() -> None:
    (problem,) = problems_of(changed("train.epochs", None))
    assert "both null" in problem.message
    values = changed("train.epochs", None)
    values["train"]["max_steps"] = 10
    assert check(values).train.max_steps == 10


def test_all_problems_are_reported_at_once_each_once() -> None:
    values = base()
    values["sed"] = 1
    values["device"] = "gpu"
    values["train"].update(batch_size=0, epoch=3, precision="fp8")
    values["display"]["mode"] = "loud"
    values["model"].update(hidden=[0, 0, -1], dropout="x", wide=True)
    values["optim"] = {"name": "adma", "lr": -1}
    values["loss"] = None
    keys = [problem.message.partition(":")[0].partition("=")[0] for problem in problems_of(values)]
    assert sorted(keys) == sorted(
        [
            "sed",
            "device",
            "train.batch_size",
            "train.epoch",
            "train.precision",
            "display.mode",
            "model.hidden",
            "model.dropout",
            "model.wide",
            "optim.name",
            "loss",
        ]
    )


def test_the_values_that_were_given_are_not_changed() -> None:
    values = changed("model.input_shape", [3])
    before = copy.deepcopy(values)
    problems_of(values)
    assert values == before


def test_a_checked_config_cannot_be_changed() -> None:
    config = check(base())
    with pytest.raises(AttributeError):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 3


def test_strictness_follows_the_type_of_a_default() -> None:
    """An argument without annotation takes its default's type, and that type is strict."""

    @MODELS.register("untyped")
    def untyped(count=1, ratio=0.5, label="x", on=True, anything=None):  # type: ignore[no-untyped-def]
        ...

    wrong = {"count": 1.5, "ratio": True, "label": 3, "on": 1}
    problems: list[Problem] = []
    check_component(MODELS, {"name": "untyped", **wrong, "anything": [1, "x"]}, problems)
    assert [problem.message.partition("=")[0] for problem in problems] == [f"model.{key}" for key in wrong]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_also_where_any_value_goes(value: float) -> None:
    problems: list[Problem] = []
    node = {"name": "sequential", "layers": [{"Dropout": value}]}
    check_component(MODELS, node, problems)
    assert [problem.message.partition("=")[0] for problem in problems] == ["model.layers"]


def test_a_type_that_no_config_can_have_takes_any_value() -> None:
    import torch

    @SCHEDULERS.register("typed")
    def typed(thing: torch.Tensor | None = None) -> None: ...

    problems: list[Problem] = []
    assert check_component(SCHEDULERS, {"name": "typed", "thing": 3}, problems) is not None
    assert not problems


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "a whole number"),
        (float, "a number"),
        (bool, "true or false"),
        (str, "text"),
        (list, "a list"),
        (tuple, "a list"),
        (dict, "a mapping"),
        (Any, "any value"),
        (type(None), "null"),
        (ranges.Count, COUNT),
        (ranges.NonNegativeInt, "a whole number of at least 0"),
        (ranges.Positive, "a number greater than 0"),
        (ranges.NonNegative, "a number of at least 0"),
        (ranges.Probability, "a number of at least 0 and below 1"),
        (ranges.Fraction, "a number greater than 0 and below 1"),
        (Annotated[int, Ge(2), Le(9)], "a whole number of at least 2 and of at most 9"),
        (Annotated[float, Gt(-1), Lt(1)], "a number greater than -1 and below 1"),
        (Annotated[int, "a note"], "a whole number"),
        (Literal["a", "b", 3], "one of a, b, 3"),
        (Literal["auto"], "auto"),
        (int | None, "a whole number or null"),
        (Literal["auto"] | ranges.Count, f"auto or {COUNT}"),
        (list[ranges.Count], f"a list in which each item is {COUNT}"),
        (list[str] | None, "a list in which each item is text or null"),
        (tuple[float, float], "a list of 2, each a number"),
        (Component, "Component"),
    ],
)
def test_a_type_in_words(annotation: Any, text: str) -> None:
    assert describe(annotation) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (0.001, "0.001"),
        (1e-8, "1e-08"),
        (1.0, "1.0"),
        (-0.12345678, "-0.12345678"),
        ("mlp", "mlp"),
        ([1, [2.5, "x"]], "[1, [2.5, x]]"),
        ((0.9, 0.999), "[0.9, 0.999]"),
        ({"Linear": 64, "b": None}, "{Linear: 64, b: null}"),
    ],
)
def test_a_value_is_shown_as_one_types_it(value: Any, text: str) -> None:
    assert show(value) == text


def test_all_keys_people_type_are_known() -> None:
    typed = {"seed", "device", "lr", "epochs", "model", "experiment", "train.max_steps", "display.every"}
    assert typed <= set(known_keys())
    assert known_keys() == sorted(known_keys())


def test_the_check_needs_neither_torch_nor_hydra() -> None:
    program = """
import sys
import trainctl.config.settings
assert not {"torch", "hydra", "omegaconf", "rich"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
