"""Hydra's errors as problems that a user can act on: the key, the value, the closest valid one."""

from __future__ import annotations

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from trainctl.config.overrides import split_override
from trainctl.config.sources import BLANK
from trainctl.config.validation import check_component, known_keys, unknown_key
from trainctl.config.values import first_line
from trainctl.errors import Problem, did_you_mean
from trainctl.paths import conf_directory, user_conf
from trainctl.registry import COMPONENTS, TRACKERS, plugins


def explain_override(override: str, error: Exception) -> Problem:
    """Hydra's ``error``, caused by ``override`` ("" when by a file), as a problem for the user."""
    sign, key, value = split_override(override)
    override = override.lstrip("+")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_missing(override, error)
    if isinstance(error, YAMLError | UnicodeDecodeError | RecursionError):
        return _explain_file(override, error)
    if "group override must be" in str(error):
        if key in COMPONENTS:
            problems: list[Problem] = []
            check_component(COMPONENTS[key], None if value == "null" else value, problems)
            return problems[0]
        if not value:
            return Problem(f"{override}: is no setting", "settings are typed as KEY=VALUE")
        return Problem(f"{override}: must be the name of an option", f"trainctl ls {key} shows the options")
    if "Ambiguous value" in str(error):
        return Problem(f"{override}: several values", f"to sweep over them add -m; a list is {key}=[{value}]")
    if isinstance(error, OverrideParseException) or isinstance(error.__cause__, OverrideParseException):
        if value.startswith("choice(") and "null" in value:
            listed = value.removeprefix("choice(").removesuffix(")")
            return Problem(f"{override}: Hydra does not take null in choice()", f"write {key}={listed}")
        return Problem(
            f"{override}: cannot be parsed: {_parse_reason(error)}",
            f"text with special characters goes in quotes: {key or 'KEY'}=\"'…'\"; lists are written [1,2]",
        )
    if override and "Could not override" in str(error):
        if key in known_keys() and not sign:
            return Problem(f"{override}: {first_line(error)}")
        return unknown_key(key)
    if override and sign != "~" and "/" not in key and "." not in key and key not in known_keys():
        return unknown_key(key)
    return Problem(f"{override}: {first_line(error)}" if override else first_line(error))


def _parse_reason(error: Exception) -> str:
    """The parser's message, without its drawing of the position."""
    while not isinstance(error, OverrideParseException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error).removeprefix("Error parsing override").strip(" :'")[:120] or "not KEY=VALUE"


def _explain_file(override: str, error: Exception) -> Problem:
    """A file that is not a valid config: its name, the position, and the reason."""
    if isinstance(error, RecursionError):
        return Problem(
            f"{override or 'a config'}: a config includes or refers to itself", "check its defaults list"
        )
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
        return Problem(
            f"{where}: not valid YAML: {error.problem}",
            "indent with spaces; quote text with special characters",
        )
    return Problem(
        f"{override or 'a config file'}: cannot be read: {first_line(error)}",
        "option files are YAML in UTF-8",
    )


def message_with_key(error: Exception) -> str:
    """The message of an error about a value that cannot be resolved, with the value's key."""
    key = getattr(error, "full_key", None)
    reason = first_line(error)
    return f"{key}: {reason}" if isinstance(key, str) and key and key not in reason else reason


def explain_value(error: OmegaConfBaseException) -> Problem:
    """The problem of a value that cannot be resolved."""
    remedy = ""
    if isinstance(error, InterpolationKeyError):
        remedy = "${…} takes a full key, such as ${optim.lr}; trainctl --cfg job shows all"
    elif isinstance(error, MissingMandatoryValue):
        remedy = "its file requires a value (???): set one"
    return Problem(message_with_key(error), remedy)


def _explain_missing(override: str, error: MissingConfigException) -> Problem:
    missing = str(error.missing_cfg_file).removesuffix(".yaml")
    group, _, option = missing.rpartition("/")
    # For a list of options Hydra does not report the available ones.
    folders = [folder / group for folder in (conf_directory(), user_conf()) if folder is not None]
    found = error.options or [path.stem for folder in folders for path in folder.glob("*.yaml")]
    options = sorted(set(found) - {BLANK})
    if not group:
        return Problem(f"{missing}: there is no such config in {conf_directory()}")
    asked = f"{group}={option}"
    # The option itself may exist, and its file ask for one that does not.
    given = f"{override} asks for {asked}" if override and override != asked else asked
    if option in options:
        return Problem(
            f"{given}: its file cannot be used", f"option files are called NAME.yaml: {option}.yaml"
        )
    registry = COMPONENTS.get(group)
    if registry is not None and option in registry.refused:
        return registry.unknown(option).problems[0]
    if registry is not None and option in registry.names():
        return Problem(f"{given}: no option file", f"{option} is registered: type {group}.name={option}")
    remedy = did_you_mean(option, options, f"{group}=")
    if registry is not None or (group == TRACKERS.group and option):
        word = f"{group}.name={option}" if registry is not None else f"{group}.{option}.name={option}"
        remedy += plugins.hint(option, word)
    listed = f"there are: {', '.join(options)}" if options else f"there is no group {group}"
    return Problem(f"{given}: there is no such option", remedy + listed)
