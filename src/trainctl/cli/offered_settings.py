"""KEY=VALUE words for completion: read from the files of the configs, without Hydra and torch."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainctl.cli import offers
from trainctl.config.options import component_of, find_options, read_option
from trainctl.config.overrides import ALIASES, PATH_KEYS
from trainctl.paths import conf_directory

_HYDRA_KEYS = ("hydra.run.dir=", "hydra.sweep.dir=")
_PATHS = ("/", "./", "../", "~/")


def settings(words: Sequence[str], current: str) -> Iterator[str]:
    """Keys, and values of the key that is typed.

    Args:
        words: the words before, which choose components.
        current: the word that is being typed.
    """
    text = current.lstrip("+~")
    sign, (key, equals, value) = current[: len(current) - len(text)], text.partition("=")
    groups = _groups(words)
    if equals:
        # Of a list, or of a sweep, the last value is being typed.
        head = value[: max(value.rfind(","), value.rfind("[")) + 1]
        found = [f"{key}={head}{each}" for each in groups.get(key) or _values(words, key, value, groups)]
    elif "." in key:
        found = [f"{each}=" for each in _arguments(words, key.partition(".")[0], groups)]
    else:
        top = [
            each
            for each, value in read_option(conf_directory() / "config.yaml").items()
            if each != "defaults"
        ]
        found = [f"{each}=" for each in (*ALIASES, *groups, *top)] + list(_HYDRA_KEYS if current else ())
        # "model" goes on to "model=mlp" and to "model.hidden=3".
        found += [f"{each}." for each in groups if "/" not in each and current]
    return (sign + each for each in found)


def _groups(words: Sequence[str]) -> dict[str, dict[str, Path]]:
    typed = list(words)
    added = [typed[typed.index("--config-dir") + 1]] if "--config-dir" in typed[:-1] else []
    added += [word.partition("=")[2] for word in typed if word.startswith("--config-dir=")]
    groups = find_options(*(folder for folder in map(Path, added) if folder.is_dir()))
    for path in sorted((conf_directory() / "hydra").glob("*/*.yaml")):
        groups.setdefault(f"hydra/{path.parent.name}", {})[path.stem] = path
    return groups


def _chosen(words: Sequence[str], groups: Mapping[str, Mapping[str, Path]]) -> dict[str, str]:
    """The option of each group: that of the words, of their recipe, or the default."""
    chosen: dict[str, str] = {}
    typed = [word.lstrip("+").partition("=") for word in words]
    recipes = [groups.get("experiment", {}).get(name) for key, _, name in typed if key == "experiment"]
    for path in (conf_directory() / "config.yaml", *recipes):
        defaults = read_option(path).get("defaults") if path is not None else None
        for entry in defaults if isinstance(defaults, list) else ():
            if isinstance(entry, dict):
                chosen |= {str(key).split()[-1].lstrip("/"): str(name) for key, name in entry.items()}
    return chosen | {key: name.rpartition(",")[2] for key, equals, name in typed if equals and key in groups}


def _arguments(
    words: Sequence[str], group: str, groups: Mapping[str, Mapping[str, Path]]
) -> dict[str, tuple[Any, Any]]:
    """The keys of a group, with type and value."""
    option = _chosen(words, groups).get(group, "default").strip("[]")
    if (path := groups.get(group, {}).get(option)) is None:
        return {}
    try:
        found = component_of(group, option, path)
    except (LookupError, SyntaxError, ValueError):
        found = None
    if found is None:
        return {f"{group}.{key}": (Any, value) for key, value in read_option(path).items()}
    prefix, signature, values = found
    return {
        f"{prefix}.{each.name}": (each.annotation, values.get(each.name, each.default))
        for each in signature.parameters
    }


def _values(
    words: Sequence[str], key: str, value: str, groups: Mapping[str, Mapping[str, Path]]
) -> list[str]:
    key = ALIASES.get(key, key)
    if key in PATH_KEYS or key == "plugins" or value.startswith(_PATHS):
        runs = offers.runs() if key == "init_from" else {}
        return [*runs, *offers.paths(value.rpartition("[")[2])]
    if key == "device":
        return list(offers.DEVICES)
    if "." in key:
        annotation, now = _arguments(words, key.partition(".")[0], groups).get(key, (Any, None))
    else:
        annotation, now = Any, read_option(conf_directory() / "config.yaml").get(key)
    choices = list(_choices(bool if isinstance(now, bool) else annotation))
    return choices or ([str(now)] if isinstance(now, int | float | str) else [])


def _choices(annotation: Any) -> Iterator[str]:
    """The values of a type that has few: Literal, bool and what holds them."""
    if annotation is bool:
        yield from ("true", "false")
    elif typing.get_origin(annotation) is typing.Literal:
        yield from map(str, typing.get_args(annotation))
    else:
        for each in typing.get_args(annotation):
            yield from _choices(each)
