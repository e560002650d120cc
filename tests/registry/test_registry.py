"""Registries: what can be chosen, found by file name and imported when it is."""

from __future__ import annotations

from typing import Any

import pytest

from trainctl.errors import ConfigError
from trainctl.paths import conf_directory
from trainctl.registry import COMPONENTS, DATASETS, MODELS, OPTIMIZERS, SCHEDULERS, Registry


def test_every_option_names_a_member() -> None:
    for group, registry in COMPONENTS.items():
        options = {path.stem for path in (conf_directory() / group).glob("*.yaml")}
        assert sorted(options) == registry.names()


def test_what_trainctl_supplies_is_no_argument_of_a_config() -> None:
    assert "input_shape" not in MODELS.signature("mlp").names
    assert "parameters" not in OPTIMIZERS.signature("adam").names
    assert SCHEDULERS.signature("cosine").names == ("warmup", "final")


def test_takes_says_what_a_constructor_asks_for() -> None:
    assert MODELS.takes("mlp") == {"input_shape", "output_size"}
    assert SCHEDULERS.takes("cosine") == {"optimizer", "total_steps"}
    assert SCHEDULERS.takes("none") == frozenset()


@pytest.mark.parametrize("name", ["digits", "mnist", "synthetic"])
def test_every_dataset_takes_the_validation_split(name: str) -> None:
    assert {"val", "split_seed", "folds", "scale_target"} < set(DATASETS.signature(name).names)


def test_an_unknown_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(ConfigError) as caught:
        OPTIMIZERS.load("adamm")
    (problem,) = caught.value.problems
    assert problem.message == "optim.name=adamm: there is no such optimizer"
    assert "did you mean optim.name=adam" in problem.remedy
    assert all(name in problem.remedy for name in OPTIMIZERS.names())
    with pytest.raises(ConfigError, match="no such optimizer"):
        OPTIMIZERS.signature("adamm")


def test_an_unknown_name_that_is_near_nothing_gets_the_list() -> None:
    (problem,) = MODELS.unknown("zzzzzz").problems
    assert problem.remedy.startswith("if it is your own: plugins=[./FILE.py] model.name=zzzzzz")
    assert "; there are: autoencoder" in problem.remedy


def test_a_component_of_ones_own_is_registered_and_found() -> None:
    @MODELS.register("my_net")
    class MyNet:
        def __init__(self, output_size: int, size: int = 3) -> None: ...

    assert "my_net" in MODELS.names()
    assert MODELS.load("my_net") is MyNet
    assert MODELS.signature("my_net").names == ("size", *MODELS.common)
    assert MODELS.takes("my_net") == {"output_size"}


def made_in(module: str) -> Any:
    def component() -> None: ...

    component.__module__ = module
    return component


def test_one_module_may_register_its_name_again() -> None:
    MODELS.register("mine")(made_in("here"))
    again = made_in("here")
    MODELS.register("mine")(again)
    assert MODELS.load("mine") is again


def test_two_modules_may_not_register_one_name() -> None:
    MODELS.register("mine")(made_in("here"))
    with pytest.raises(ConfigError, match="there registers the model 'mine', a name taken by here"):
        MODELS.register("mine")(made_in("there"))


@pytest.mark.parametrize("name", ["mlp", "linear"])
def test_a_shipped_name_is_taken_whether_or_not_it_is_imported(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(MODELS._entries, name, raising=False)
    with pytest.raises(ConfigError, match=rf"a name taken by trainctl\.components\.models\.{name}"):
        MODELS.register(name)(made_in("elsewhere"))


def test_private_files_are_no_members() -> None:
    registry = Registry("optim", "optimizer", "optimizers")
    assert any(list(folder.glob("_*.py")) for folder in registry._folders)
    assert not [name for name in registry.names() if name.startswith("_")]
