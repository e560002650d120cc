"""Hydra's errors in a user's words: the key, the value, the nearest valid one."""

from __future__ import annotations

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from trainctl.config import overrides as word_rules
from trainctl.config.settings import check_component, known_keys, unknown_key
from trainctl.config.sources import BLANK
from trainctl.errors import Problem, nearest
from trainctl.paths import conf_directory, user_conf
from trainctl.registry import COMPONENTS, TRACKERS


def explain(word: str, error: Exception) -> Problem:
    """What Hydra's ``error``, caused by ``word`` ("" when by a file), means to the person who typed it."""
    sign, key, value = word_rules.split(word)
    word = word.lstrip("+")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_missing(word, error)
    if isinstance(error, YAMLError | UnicodeDecodeError | RecursionError):
        return _explain_file(word, error)
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
            f"{word}: cannot be parsed: {_parse_reason(error)}",
            f"text with special characters goes in quotes: {key or 'KEY'}=\"'…'\"; lists are written [1,2]",
        )
    if word and "Could not override" in str(error):
        if key in known_keys() and not sign:
            return Problem(f"{word}: {first_line(error)}")
        return unknown_key(key)
    if word and sign != "~" and "/" not in key and "." not in key and key not in known_keys():
        return unknown_key(key)
    return Problem(f"{word}: {first_line(error)}" if word else first_line(error))


def _parse_reason(error: Exception) -> str:
    """What the parser says, without its drawing of the place."""
    while not isinstance(error, OverrideParseException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error).removeprefix("Error parsing override").strip(" :'")[:120] or "not KEY=VALUE"


def _explain_file(word: str, error: Exception) -> Problem:
    """A file that is not a config: which one, where, and why."""
    if isinstance(error, RecursionError):
        return Problem(
            f"{word or 'a config'}: a config includes or refers to itself", "look at its defaults list"
        )
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
        return Problem(
            f"{where}: not valid YAML: {error.problem}",
            "indent with spaces; quote text with special characters",
        )
    return Problem(
        f"{word or 'a config file'}: cannot be read: {first_line(error)}", "option files are YAML in UTF-8"
    )


def explained(error: Exception) -> str:
    """An error of a value that cannot be resolved, with the key it belongs to."""
    key = getattr(error, "full_key", None)
    reason = first_line(error)
    return f"{key}: {reason}" if isinstance(key, str) and key and key not in reason else reason


def explain_value(error: OmegaConfBaseException) -> Problem:
    """The problem of a value that cannot be resolved."""
    remedy = ""
    if isinstance(error, InterpolationKeyError):
        remedy = "${…} names a whole key, such as ${optim.lr}; trainctl --cfg job shows all"
    elif isinstance(error, MissingMandatoryValue):
        remedy = "its file leaves it open (???): give it a value"
    return Problem(explained(error), remedy)


def _explain_missing(word: str, error: MissingConfigException) -> Problem:
    missing = str(error.missing_cfg_file).removesuffix(".yaml")
    group, _, option = missing.rpartition("/")
    # Of a list of options Hydra does not say what there is.
    folders = [folder / group for folder in (conf_directory(), user_conf()) if folder is not None]
    found = error.options or [path.stem for folder in folders for path in folder.glob("*.yaml")]
    options = sorted(set(found) - {BLANK})
    if not group:
        return Problem(f"{missing}: there is no such config in {conf_directory()}")
    asked = f"{group}={option}"
    # A word that exists may lead to a file that asks for one that does not.
    given = f"{word} asks for {asked}" if word and word != asked else asked
    if option in options:
        return Problem(
            f"{given}: its file cannot be used", f"option files are called NAME.yaml: {option}.yaml"
        )
    close = nearest(option, options)
    remedy = f"did you mean {group}={close}? " if close else ""
    if group in COMPONENTS:
        remedy += f"a plugin's without an option file: {group}.name={option}; "
    if group == TRACKERS.group and option:
        remedy += f"a plugin's without an option file: {group}.{option}.name={option}; "
    if group in COMPONENTS and option in COMPONENTS[group].refused:
        return COMPONENTS[group].unknown(option).problems[0]
    if group in COMPONENTS and option in COMPONENTS[group].names():
        return Problem(f"{given}: no option file", f"{option} is registered: type {group}.name={option}")
    listed = f"there are: {', '.join(options)}" if options else f"there is no group {group}"
    return Problem(f"{given}: there is no such option", remedy + listed)


def first_line(error: BaseException) -> str:
    """What an error's message says first; a line that ends in a colon goes on."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
