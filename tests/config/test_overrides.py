"""What becomes of the command line's words before Hydra's grammar sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from trainctl.config.overrides import (
    ALIASES,
    PATH_KEYS,
    is_component_argument,
    split_override,
    to_display,
    to_hydra,
)
from trainctl.errors import ConfigError
from trainctl.registry import COMPONENTS


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("lr=0.1", ("", "lr", "0.1")),
        ("+a.b=c", ("+", "a.b", "c")),
        ("++a.b=c", ("++", "a.b", "c")),
        ("~a.b=c", ("~", "a.b", "c")),
        ("a=b=c", ("", "a", "b=c")),
        ("a=", ("", "a", "")),
        ("a=two\nlines", ("", "a", "two\nlines")),
        ("~a.b", ("", "a.b", "")),
        ("train", ("", "train", "")),
    ],
)
def test_split_gives_sign_key_and_value(word: str, parts: tuple[str, str, str]) -> None:
    assert split_override(word) == parts


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr=1e-3", "++optim.lr=1e-3"),
        ("epochs=3", "train.epochs=3"),
        ("batch_size=8", "train.batch_size=8"),
        ("lr=1,2", "++optim.lr=1,2"),
        ("train.epochs=3", "train.epochs=3"),
        ("seed=1", "seed=1"),
    ],
)
def test_short_keys_stand_for_long_ones(typed: str, meant: str) -> None:
    assert to_hydra(typed) == meant


@pytest.mark.parametrize("group", sorted(COMPONENTS))
@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_a_components_argument_may_be_set_whether_or_not_its_yaml_lists_it(group: str, sign: str) -> None:
    assert to_hydra(f"{sign}{group}.anything=1") == f"++{group}.anything=1"


@pytest.mark.parametrize(
    "word",
    [
        "model=mlp",
        "~model.hidden",
        "~model.hidden=3",
        "experiment=x",
        "--help",
        "+a=1",
        "model.=1",
        "train.x=1",
    ],
)
def test_other_words_stay_as_they_are(word: str) -> None:
    assert to_hydra(word) == word


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("model.hidden", True),
        ("optim.lr", True),
        ("model", False),
        ("model.", False),
        ("train.epochs", False),
    ],
)
def test_only_a_key_inside_a_components_group_is_an_argument(key: str, expected: bool) -> None:
    assert is_component_argument(key) is expected


def test_every_alias_stands_for_a_longer_key() -> None:
    assert all("." in full and "." not in short for short, full in ALIASES.items())


AWKWARD = [
    "a=b.csv",
    "a(1).csv",
    "two words",
    " leading",
    "it's",
    "a,b",
    "[x]",
    "{y}",
    "50%",
    "a:b",
    "a@b",
    "#1",
    "back\\slash",
    "trailing\\",
    "both\\'",
    "zürich/データ",
    "true",
    "1e3",
]


@pytest.mark.parametrize(
    ("key", "path"), [("dataset.path", path) for path in AWKWARD] + [(key, "a=(b") for key in PATH_KEYS]
)
def test_hydra_reads_a_path_as_it_was_typed(key: str, path: str) -> None:
    override = OverridesParser.create().parse_override(to_hydra(f"{key}={path}"))
    value = override.value()
    assert str(value) == path
    assert not isinstance(value, bool | int | float)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/home")
    override = OverridesParser.create().parse_override(to_hydra("dataset.root=~/data"))
    assert override.value() == str(Path("/somewhere/home/data"))


@pytest.mark.parametrize("value", ["'a b'", '"a b"', "null", "${oc.env:HOME}/x", ""])
def test_a_path_that_is_quoted_already_null_or_an_interpolation_is_left_alone(value: str) -> None:
    assert to_hydra(f"hydra.run.dir={value}") == f"hydra.run.dir={value}"


def test_in_a_sweep_the_commas_of_a_path_separate_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home")
    assert to_hydra("dataset.root=~/a,b(1)", sweep=True) == "++dataset.root='/home/a','b(1)'"
    assert to_hydra("dataset.root=a,b") == "++dataset.root='a,b'"


def test_in_a_sweep_a_comma_inside_quotes_does_not_separate() -> None:
    assert to_hydra("dataset.root='a,b'", sweep=True) == "++dataset.root='a,b'"


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("++optim.lr=0.1", "lr=0.1"),
        ("train.epochs=3", "epochs=3"),
        ("model=mlp", "model=mlp"),
        ("+a=1", "a=1"),
    ],
)
def test_people_are_shown_the_short_key(word: str, text: str) -> None:
    assert to_display(word) == text


def test_a_home_that_nobody_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such user"):
        to_hydra("dataset.root=~nobody-of-this-name/data")
