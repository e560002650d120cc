"""What the verbs that use a run have in common: their words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainctl.errors import ConfigError, nearest

CHECKPOINT = {"--checkpoint": ("best", "last")}


@dataclass(frozen=True)
class Words:
    """What was typed after the verb.

    Attributes:
        run: the run.
        options: options with a value, by name.
        flags: options without one.
        overrides: KEY=VALUE words.
    """

    run: str
    options: Mapping[str, str]
    flags: frozenset[str]
    overrides: tuple[str, ...]

    def needed(self, option: str, verb: str, example: str) -> str:
        """The value of an option that the verb cannot do without. Raises ConfigError where it is absent."""
        if option not in self.options:
            raise ConfigError(f"{verb} needs {option}", f"trainctl {verb} {self.run} {example}")
        return self.options[option]


def parse(
    verb: str,
    words: Sequence[str],
    options: Mapping[str, Sequence[str]],
    flags: Sequence[str],
    *,
    overrides: bool = False,
) -> Words:
    """Sort the words of a verb that takes one RUN.

    ``options`` take a value, given as the next word or after an equals sign; where it lists values, it is one
    of them. Raises ConfigError for anything else, with the nearest.
    """
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
    verb: str, words: Sequence[str], options: Mapping[str, Sequence[str]], flags: Sequence[str]
) -> tuple[list[str], dict[str, str], set[str]]:
    """The words that are no options, the values of ``options``, and those of ``flags`` that were typed.

    Raises ConfigError for another option, with the nearest, and for a value that is none.
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
            value = value if equals else left.pop(0) if left else ""
            given[name] = _one_of(name, value, options[name])
        elif word.startswith("-"):
            known = [*options, *flags]
            close = nearest(name, known)
            hint = f"did you mean {close}? " if close else ""
            raise ConfigError(f"{word}: {verb} has no such option", f"{hint}there are: {', '.join(known)}")
        else:
            plain.append(word)
    return plain, given, found


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if not value:
        raise ConfigError(f"{name}: needs a value", f"{name} {allowed[0] if allowed else 'VALUE'}")
    if allowed and value not in allowed:
        close = nearest(value, allowed)
        hint = f"did you mean {close}? " if close else ""
        raise ConfigError(
            f"{name} {value}: there is no such choice", f"{hint}there are: {', '.join(allowed)}"
        )
    return value
