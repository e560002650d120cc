"""Hydra's errors in a user's words: the key, the value, the nearest valid one."""

from __future__ import annotations

from hydra.errors import MissingConfigException, OverrideParseException

from trainctl import words as word_rules
from trainctl.compose._sources import BLANK
from trainctl.config import check_component, known_keys, unknown_key
from trainctl.errors import Problem, nearest
from trainctl.locations import conf_directory
from trainctl.registry import COMPONENTS


def explain(word: str, error: Exception) -> Problem:
    """What Hydra's ``error``, caused by ``word`` ("" when by a file), means to the person who typed it."""
    sign, key, value = word_rules.split(word)
    word = word.lstrip("+")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_missing(word, error)
    if "group override must be" in str(error):
        if key in COMPONENTS:
            problems: list[Problem] = []
            check_component(COMPONENTS[key], None if value == "null" else value, problems)
            return problems[0]
        return Problem(
            f"{word}: this is a group, an option's name is needed", f"trainctl ls {key} shows them"
        )
    if "Ambiguous value" in str(error):
        return Problem(f"{word}: several values", f"to sweep over them add -m; a list is {key}=[{value}]")
    if isinstance(error, OverrideParseException) or isinstance(error.__cause__, OverrideParseException):
        return Problem(
            f"{word}: cannot be parsed",
            f"quote the value: {key}=\"'…'\"; lists are [1,2], nothing is null",
        )
    if word and "Could not override" in str(error):
        if key in known_keys() and not sign:
            return Problem(f"{word}: {first_line(error)}")
        return unknown_key(key)
    if word and sign != "~" and "/" not in key and "." not in key and key not in known_keys():
        return unknown_key(key)
    return Problem(f"{word}: {first_line(error)}" if word else first_line(error))


def _explain_missing(word: str, error: MissingConfigException) -> Problem:
    missing = str(error.missing_cfg_file).removesuffix(".yaml")
    group, _, option = missing.rpartition("/")
    options = sorted(set(error.options or []) - {BLANK})
    if not group:
        return Problem(f"{missing}: there is no such config in {conf_directory()}")
    given = word or f"{group}={option}"
    close = nearest(option, options)
    remedy = f"did you mean {group}={close}? " if close else ""
    if group in COMPONENTS and not close:
        remedy = f"one from a plugin, without an option file: {group}.name={option}; "
    if group in COMPONENTS and option in COMPONENTS[group].names():
        return Problem(f"{given}: no option file", f"{option} is registered: type {group}.name={option}")
    return Problem(f"{given}: there is no such option", f"{remedy}there are: {', '.join(options)}")


def first_line(error: BaseException) -> str:
    """The first line that says something of an error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
