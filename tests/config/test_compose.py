"""Composition: what belongs to whom, and what other people's files may not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.files import put
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.errors import ConfigError, UnsafeInputError


def compose(*words: str):
    return Composer().compose([to_hydra(word) for word in words])


@pytest.fixture
def recipe(tmp_path: Path) -> None:
    """A recipe of the user's own: arguments for sgd_momentum and for the mlp."""
    put(
        tmp_path / "conf" / "experiment" / "mine.yaml",
        "# @package _global_\n"
        "defaults:\n"
        "  - override /optim: sgd_momentum\n"
        "optim: {lr: 0.3, momentum: 0.8}\n"
        "model: {hidden: [16], dropout: 0.5}\n"
        "train: {epochs: 7}\n",
    )


def test_an_experiment_decides(recipe) -> None:
    config = compose("experiment=mine").config
    assert (config.optim.name, config.optim.arguments) == ("sgd_momentum", {"lr": 0.3, "momentum": 0.8})
    assert config.model.arguments["hidden"] == [16]
    assert config.train.epochs == 7


def test_another_component_drops_the_experiments_arguments_and_says_so(recipe) -> None:
    composed = compose("experiment=mine", "optim=adam")
    assert (composed.config.optim.name, composed.config.optim.arguments) == ("adam", {"lr": 0.001})
    assert "optim=adam: dropped lr=0.3, momentum=0.8 (meant for sgd_momentum)" in composed.notices
    assert composed.config.model.arguments["hidden"] == [16]


def test_the_same_component_keeps_them(recipe) -> None:
    composed = compose("experiment=mine", "optim=sgd_momentum")
    assert composed.config.optim.arguments == {"lr": 0.3, "momentum": 0.8}
    assert not any("dropped" in notice for notice in composed.notices)


def test_what_was_typed_always_counts(recipe) -> None:
    composed = compose("experiment=mine", "optim=adam", "lr=0.02", "optim.weight_decay=0.1")
    assert composed.config.optim.arguments == {"lr": 0.02, "weight_decay": 0.1}
    assert "optim=adam: dropped momentum=0.8 (meant for sgd_momentum)" in composed.notices


@pytest.mark.slow
def test_a_sweep_over_optim_gives_each_its_own_arguments(recipe) -> None:
    composer = Composer()
    jobs = composer.jobs(["experiment=mine", "optim=sgd_momentum,adam,sgd"])
    arguments = [composer.compose(job).config.optim.arguments for job in jobs]
    assert arguments == [{"lr": 0.3, "momentum": 0.8}, {"lr": 0.001}, {"lr": 0.1}]


def test_a_name_alone_drops_the_option_files_arguments_without_a_word() -> None:
    composed = compose("model.name=linear")
    assert (composed.config.model.name, composed.config.model.arguments) == ("linear", {})
    assert not any("dropped" in notice for notice in composed.notices)


def test_a_name_with_arguments_of_its_own() -> None:
    composed = compose("optim.name=sgd_momentum", "optim.momentum=0.5")
    assert composed.config.optim.arguments == {"momentum": 0.5}


@pytest.mark.slow
def test_an_experiment_may_name_a_component_over_another_option(tmp_path: Path) -> None:
    put(
        tmp_path / "conf" / "experiment" / "named.yaml",
        "# @package _global_\nmodel: {name: linear, bias: false}\n",
    )
    composed = compose("experiment=named")
    assert (composed.config.model.name, composed.config.model.arguments) == ("linear", {"bias": False})
    chosen = compose("experiment=named", "model=sequential")
    assert chosen.config.model.name == "sequential"
    assert "bias" not in chosen.config.model.arguments


def test_an_option_file_of_ones_own_sets_lr_and_the_command_line_wins(tmp_path: Path) -> None:
    put(tmp_path / "conf" / "optim" / "careful.yaml", "name: adam\nlr: 0.5\n")
    assert compose("optim=careful").config.optim.arguments["lr"] == 0.5
    assert compose("optim=careful", "lr=0.25").config.optim.arguments["lr"] == 0.25
    assert "from ./conf: optim/careful" in compose("optim=careful").notices


def test_ones_own_option_takes_the_place_of_trainctls(tmp_path: Path) -> None:
    put(tmp_path / "conf" / "optim" / "adam.yaml", "name: adam\nlr: 0.125\n")
    assert compose().config.optim.arguments["lr"] == 0.125


def test_an_unrelated_config_yaml_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path / "conf" / "config.yaml", "defaults: [database]\nfoo: 1\n")
    assert compose().config.model.name == "mlp"


def test_personal_defaults_in_local_yaml(tmp_path: Path) -> None:
    put(tmp_path / "conf" / "local.yaml", "threads: 1\nseed: 9\n")
    composed = compose()
    assert (composed.config.threads, composed.config.seed) == (1, 9)
    assert "from ./conf: local" in composed.notices
    assert compose("seed=3").config.seed == 3


def test_a_folder_given_with_config_dir(tmp_path: Path) -> None:
    put(tmp_path / "more" / "optim" / "mine.yaml", "name: sgd\nlr: 0.75\n")
    composed = Composer(config_dir=str(tmp_path / "more")).compose(["optim=mine"])
    assert composed.config.optim.arguments["lr"] == 0.75
    with pytest.raises(ConfigError, match="no such folder"):
        Composer(config_dir=str(tmp_path / "absent"))


@pytest.mark.parametrize("word", ["~optim.lr", "~lr"])
def test_a_key_can_be_taken_out(word: str) -> None:
    assert "lr" not in compose(word).config.optim.arguments


def test_a_path_is_a_path() -> None:
    composed = compose("dataset=mnist", "dataset.root=a=b, [it's]")
    assert composed.config.dataset.arguments["root"] == "a=b, [it's]"


@pytest.mark.parametrize("value", ["1e-3", "1E-3", ".001", "0.001"])
def test_numbers_as_people_write_them(value: str) -> None:
    assert compose(f"lr={value}").config.optim.arguments["lr"] == 0.001


@pytest.mark.parametrize(
    "content",
    [
        "name: mlp\n_target_: os.system\n",
        "name: mlp\nhidden: {_target_: os.system}\n",
        "name: mlp\nhidden: [{_partial_: true}]\n",
        "name: mlp\nhidden: [{_args_: [1]}]\n",
    ],
)
def test_a_config_that_calls_is_refused(tmp_path: Path, content: str) -> None:
    put(tmp_path / "conf" / "model" / "evil.yaml", content)
    with pytest.raises(UnsafeInputError, match="refused"):
        compose("model=evil")


def test_a_logging_factory_is_refused(tmp_path: Path) -> None:
    put(
        tmp_path / "conf" / "experiment" / "evil.yaml",
        "# @package _global_\nhydra: {job_logging: {handlers: {x: {(): os.system, args: [ls]}}}}\n",
    )
    with pytest.raises(UnsafeInputError, match="refused"):
        compose("experiment=evil")


def test_hydras_own_classes_are_left_alone() -> None:
    assert compose("hydra/launcher=basic", "hydra/sweeper=basic").config.seed == 0


def test_a_reference_to_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing"):
        compose("name=${nothing}")


@pytest.mark.parametrize(
    ("words", "hidden"),
    [
        (["model.hidden.0=3"], [3, 64]),
        (["model=mlp", "model.hidden.0=3"], [3, 64]),
        (["model=mlp", "model.hidden.1=9"], [128, 9]),
    ],
    ids=str,
)
def test_an_entry_of_a_list_can_be_set_also_where_the_component_is_chosen(
    words: list[str], hidden: list[int]
) -> None:
    assert compose(*words).config.model.arguments["hidden"] == hidden


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: mlp\nhidden: [1, 2\n", "line 3, column 1: not valid YAML"),
        ("name: mlp\n\thidden: [1]\n", "line 2, column 1: not valid YAML"),
        ("name: mlp\nname: linear\n", "duplicate key"),
        ("name: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("- mlp\n", "model/broken"),
        ("defaults: [broken]\n", "broken"),
        ("defaults: [nofile]\n", "model=broken asks for model=nofile: there is no such option"),
    ],
    ids=["bracket", "tab", "twice", "tag", "list", "circle", "reference"],
)
def test_a_broken_option_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    put(tmp_path / "conf" / "model" / "broken.yaml", content)
    with pytest.raises(ConfigError) as error:
        compose("model=broken")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_option_file_that_is_not_text(tmp_path: Path, trainctl) -> None:
    folder = tmp_path / "conf" / "model"
    folder.mkdir(parents=True)
    (folder / "latin.yaml").write_bytes(b"# caf\xe9\nname: mlp\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        compose("model=latin")
    assert "latin" in trainctl("ls", "model").out


def test_a_short_key_in_a_file_is_told_its_full_name(tmp_path: Path) -> None:
    put(tmp_path / "conf" / "local.yaml", "lr: 0.1\n")
    with pytest.raises(ConfigError, match=r"short for optim\.lr on the command line only"):
        compose()


def test_an_experiment_that_asks_for_an_unknown_option_says_which(tmp_path: Path) -> None:
    put(
        tmp_path / "conf" / "experiment" / "typo.yaml",
        "# @package _global_\ndefaults:\n  - override /model: mpl\n",
    )
    with pytest.raises(ConfigError, match="experiment=typo asks for model=mpl") as error:
        compose("experiment=typo")
    assert "did you mean model=mlp?" in error.value.problems[0].remedy


@pytest.mark.parametrize("word", ["model=[mlp,linear]", "model=[mlp]", "optim={name:adam}"])
def test_one_option_is_chosen(word: str) -> None:
    with pytest.raises(ConfigError, match="one option can be chosen"):
        compose(word)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["dataset=cvs", "dataset.path=a.csv", "dataset.target=b"], 1),
        (["experiment=digits_cosin", "dataset.root=a", "model.layers=3"], 1),
        (["dataset=cvs", "dataset.path=a.csv", "model.hiden=[3]", "seed=x"], 3),
    ],
)
def test_arguments_of_an_option_that_is_not_there_are_not_judged(
    trainctl, words: list[str], count: int
) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert outcome.err.count("error") == count, outcome.err
    assert f"{words[0]}: there is no such option" in outcome.err


def test_the_default_that_is_named_is_the_option_files(trainctl) -> None:
    error = trainctl("dataset.val=-1").err
    assert "default: 0.15" in error, error


def test_one_plugin_needs_no_brackets(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    assert compose("plugins=./mine.py").config.plugins == ("./mine.py",)


@pytest.mark.parametrize("name", ["é", "日本", "a=b", "two words"])
def test_a_name_is_text(name: str) -> None:
    assert compose(f"name={name}").config.name == name


@pytest.mark.parametrize("name", ["last", "../x", "a/b"])
def test_a_name_that_means_something_else_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not a valid name for a run"):
        compose(f"name={name}")
