"""A signature is read from source exactly as from the live object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from trainctl.registry import COMPONENTS, METRICS, MODELS, Registry
from trainctl.registry import constraints as ranges
from trainctl.registry.signature import REQUIRED, Parameter, Signature, from_object, from_source

REGISTRIES = [*COMPONENTS.values(), METRICS]
MEMBERS = [
    pytest.param(registry, path, id=f"{registry.group}-{path.stem}")
    for registry in REGISTRIES
    for folder in registry._folders
    for path in sorted(folder.glob("[!_]*.py"))
]


def settable(signature: Signature, registry: Registry) -> list[Parameter]:
    return [each for each in signature.parameters if each.name not in registry.supplied]


@pytest.mark.parametrize(("registry", "path"), MEMBERS)
def test_source_and_object_agree(registry: Registry, path: Path) -> None:
    """Names (supplied ones too), annotation and default of all that a config may set, and doc."""
    live = from_object(registry.load(path.stem))
    read = from_source(path, path.stem)
    # What is inherited is not in the file; it is no argument for a config as long as trainctl supplies it.
    assert set(live.names) - set(read.names) <= registry.supplied
    assert [name for name in live.names if name in read.names] == list(read.names)
    assert settable(read, registry) == settable(live, registry)
    assert read.doc == live.doc


@pytest.mark.parametrize(("registry", "path"), MEMBERS)
def test_every_component_says_what_it_is_and_describes_its_arguments(registry: Registry, path: Path) -> None:
    signature = from_source(path, path.stem)
    assert signature.summary.endswith((".", ":"))
    for parameter in settable(signature, registry):
        assert f"{parameter.name}:" in signature.doc, parameter.name
        assert parameter.annotation is not Any, parameter.name


@pytest.mark.parametrize(("registry", "path"), MEMBERS)
def test_defaults_are_valid_for_their_own_annotation(registry: Registry, path: Path) -> None:
    from pydantic import TypeAdapter

    for parameter in settable(from_source(path, path.stem), registry):
        if not parameter.required:
            TypeAdapter(parameter.annotation).validate_python(parameter.default, strict=True)


def named(function: Callable[..., Any]) -> dict[str, Parameter]:
    return {each.name: each for each in from_object(function).parameters}


def test_without_an_annotation_the_defaults_type_counts() -> None:
    def component(a, b=1, c=0.5, d="x", e=True, f=None, g=(1, 2), h=[1]):  # type: ignore[no-untyped-def]  # noqa: B006
        ...

    kinds = {name: parameter.annotation for name, parameter in named(component).items()}
    assert kinds == {"a": Any, "b": int, "c": float, "d": str, "e": bool, "f": Any, "g": tuple, "h": list}
    assert named(component)["a"].required
    assert not named(component)["f"].required


def test_an_annotation_beats_the_defaults_type() -> None:
    def component(lr: float = 1, mode: Literal["a", "b"] = "a") -> None: ...

    assert named(component)["lr"] == Parameter("lr", float, 1)
    assert named(component)["mode"].annotation == Literal["a", "b"]


def test_keyword_only_and_positional_only_arguments_are_arguments() -> None:
    def component(a: int, /, b: int = 2, *rest: int, c: int = 3) -> None: ...

    assert from_object(component).names == ("a", "b", "c")


def test_required_and_summary() -> None:
    def component(a: int) -> None:
        """First line.

        More.
        """

    signature = from_object(component)
    assert signature.parameters[0].default is REQUIRED
    assert signature.summary == "First line."
    assert "More." in signature.doc


class Grandparent:
    def __init__(self, depth: int = 1, width: int = 2, **kwargs: Any) -> None: ...


class Parent(Grandparent):
    def __init__(self, width: int = 20, **kwargs: Any) -> None: ...


class Silent(Parent): ...


class Child(Silent):
    def __init__(self, height: float, **kwargs: Any) -> None: ...


class Closed(Child):
    def __init__(self, only: int = 0) -> None: ...


def test_keywords_pass_to_the_next_constructor_of_the_method_resolution_order() -> None:
    parameters = {each.name: each.default for each in from_object(Child).parameters}
    assert parameters == {"height": REQUIRED, "width": 20, "depth": 1}
    assert from_object(Silent) == from_object(Parent)
    assert from_object(Closed).names == ("only",)


def test_nothing_hides_behind_the_keywords_of_module_and_object() -> None:
    class Net(nn.Module):
        def __init__(self, size: int = 3, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    assert from_object(Net).names == ("size",)


class Mixed(nn.Linear):
    def __init__(self, in_features: int, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(in_features, **kwargs)


def test_a_subclass_of_a_torch_layer_takes_its_arguments() -> None:
    names = from_object(Mixed).names
    assert names[:2] == ("in_features", "scale")
    assert {"out_features", "bias"} < set(names)
    assert "self" not in names
    assert "kwargs" not in names


def target(alpha: float, beta: int = 2) -> None: ...


def test_wraps_says_what_a_functions_keywords_are() -> None:
    def component(gamma: str = "x", beta: int = 9, **kwargs: Any) -> None: ...

    parameters = {each.name: each.default for each in from_object(component, target).parameters}
    assert parameters == {"gamma": "x", "beta": 9, "alpha": REQUIRED}

    def closed(gamma: str = "x") -> None: ...

    assert from_object(closed, target).names == ("gamma",)
    assert {"lr", "momentum", "nesterov"} < set(from_object(component, torch.optim.SGD).names)


def test_registered_keywords_without_a_target_are_refused(tmp_path: Path) -> None:
    from trainctl.config.validation import check_component

    @MODELS.register("open_ended")
    def open_ended(size: int = 3, **kwargs: Any) -> None: ...

    problems: list[Any] = []
    assert check_component(MODELS, {"name": "open_ended", "sise": 4}, problems) is None
    assert [problem.message for problem in problems] == [
        "model.sise=4: model open_ended has no argument 'sise'"
    ]
    assert "did you mean model.size?" in problems[0].remedy


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def test_a_wrapped_function_or_constructor_keeps_its_signature() -> None:
    @logged
    def component(a: int, b: ranges.Positive = 0.5) -> None:
        """Doc."""

    assert from_object(component) == Signature(
        (Parameter("a", int), Parameter("b", ranges.Positive, 0.5)), "Doc."
    )

    class Net:
        @logged
        def __init__(self, a: int, b: float = 0.5) -> None: ...

    assert from_object(Net).parameters == (Parameter("a", int), Parameter("b", float, 0.5))


def test_a_name_that_cannot_be_resolved_leaves_the_defaults_type() -> None:
    def component(a: "Unknown" = 1) -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037

    assert named(component)["a"].annotation is int


SOURCE = '''
from nowhere import decorator, MODELS, Thing
raise SystemExit("never imported")

@MODELS.register("other")
def other(): ...

@decorator
@MODELS.register("mine", wraps=Thing)
class Mine(Thing):
    """Summary.

    More.
    """

    def helper(self, wrong): ...

    def __init__(self, size: Count, ratio=0.5, *, tied: bool = False, thing: Thing = None,
                 sizes: list[Count] | None = None, low: float = -1.5):
        ...
'''


def test_source_is_read_without_importing(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    signature = from_source(path, "mine")
    assert signature.doc == "Summary.\n\nMore."
    assert signature.parameters == (
        Parameter("size", ranges.Count),
        Parameter("ratio", float, 0.5),
        Parameter("tied", bool, False),
        Parameter("thing", Any, None),
        Parameter("sizes", list[ranges.Count] | None, None),
        Parameter("low", float, -1.5),
    )


def test_an_annotation_in_source_can_run_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('@MODELS.register("mine")\ndef mine(a: __import__("os").abort() = 1): ...\n')
    assert from_source(path, "mine").parameters == (Parameter("a", Any, 1),)


def test_a_file_that_does_not_register_the_name_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    with pytest.raises(LookupError, match="'yours'"):
        from_source(path, "yours")
