"""The options of the verbs: parsed and checked in one way for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainctl.errors import ConfigError, StorageError, TrainctlError, nearest

CHECKPOINT = {"--checkpoint": ("best", "last")}
CONFIG = {"--config-dir": "DIR", "--config-name": "NAME"}

Options = Mapping[str, str | Sequence[str]]
"""Options with a value: either all its choices, or an example of it."""


@dataclass(frozen=True)
class Words:
    """What was typed after a verb that takes one RUN.

    Attributes:
        run: the run.
        options: options with a value, by name.
        flags: options without one.
        overrides: KEY=VALUE overrides.
    """

    run: str
    options: Mapping[str, str]
    flags: frozenset[str]
    overrides: tuple[str, ...]

    def needed(self, option: str, verb: str, example: str) -> str:
        """The value of an option that the verb requires. Raises ConfigError where it is absent."""
        if option not in self.options:
            raise ConfigError(f"{verb} needs {option}", f"trainctl {verb} {self.run} {example}")
        return self.options[option]


def parse(
    verb: str, words: Sequence[str], options: Options, flags: Sequence[str], *, overrides: bool = False
) -> Words:
    """Sort the words of a verb that takes one RUN. Raises ConfigError for anything else."""
    plain, given, found = sort(verb, words, options, flags)
    named: list[str] = []
    keys: list[str] = []
    for word in plain:
        if "=" not in word or not named:
            named.append(word)
        elif overrides:
            keys.append(word)
        else:
            raise ConfigError(
                f"{word}: {verb} takes no KEY=VALUE words", f"trainctl {verb} RUN {' '.join(options)}"
            )
    if len(named) != 1 or "=" in named[0]:
        what = f"{verb} takes one RUN, not {' '.join(named)}" if named else f"{verb} needs a RUN"
        raise ConfigError(what, f"trainctl {verb} RUN: a directory, last, or a name")
    return Words(named[0], given, frozenset(found), tuple(keys))


def sort(
    verb: str, words: Sequence[str], options: Options, flags: Sequence[str]
) -> tuple[list[str], dict[str, str], set[str]]:
    """The words that are no options, the values of ``options``, and the ``flags`` that were typed.

    A value is the next word, or follows an equals sign. Raises ConfigError for an unknown option, naming the
    nearest, and for a value that is missing or not among the choices.
    """
    plain: list[str] = []
    given: dict[str, str] = {}
    found: set[str] = set()
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if word in flags:
            found.add(word)
        elif name in options:
            if not equals and left and not left[0].startswith("--"):
                value = left.pop(0)
            given[name] = _checked(name, value, options[name])
        elif word.startswith("-"):
            known = [*options, *flags]
            raise ConfigError(f"{word}: {verb} has no such option", available(name, known))
        else:
            plain.append(word)
    return plain, given, found


def available(given: str, known: Sequence[str]) -> str:
    """The nearest of the known names, then all of them."""
    close = nearest(given, known)
    return f"{f'did you mean {close}? ' if close else ''}choose one of: {', '.join(known)}"


def _checked(name: str, value: str, allowed: str | Sequence[str]) -> str:
    if not value:
        example = allowed if isinstance(allowed, str) else [*allowed, "VALUE"][0]
        raise ConfigError(f"{name}: needs a value", f"{name} {example}")
    if allowed and not isinstance(allowed, str) and value not in allowed:
        raise ConfigError(f"{name} {value}: there is no such choice", available(value, allowed))
    return value


def whole_number(options: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    """The value of an option that is a whole number. Raises ConfigError for another one."""
    text = options.get(name, str(default))
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise ConfigError(f"{name} {text}: must be a whole number, at least {least}", f"{name} {default}")
    return int(text)


def output_file(option: str, text: str, example: str, missing: type[TrainctlError] = StorageError) -> Path:
    """The file that an option names, checked before the work: no folder, and in one that exists.

    Raises ConfigError for a folder, and ``missing`` where the folder of the file does not exist.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        raise ConfigError(f"{option} {text}: is a folder", f"name a file in it: {option} {path / example}")
    if not path.absolute().parent.is_dir():
        raise missing(f"{option} {text}: there is no folder {path.parent}", "make it, or name another")
    return path


def write_text(option: str, path: Path, text: str) -> None:
    """Write a file that an option names. Raises StorageError where that fails."""
    try:
        path.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"{option} {path}: cannot be written: {reason}", "name another file") from error
