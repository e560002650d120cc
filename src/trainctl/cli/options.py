"""What may be typed after a verb: declared once, for parsing, help, completion and docs/commands.md."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainctl.errors import ConfigError, StorageError, TrainctlError, did_you_mean


@dataclass(frozen=True)
class Option:
    """An option of a verb.

    Attributes:
        name: ``--steps``.
        help: what it does, in a few words.
        value: what stands for its value on the help page: N, FILE, auto|N; a flag has none.
        choices: all its values, where they can be listed.
        default: the value where the option is not typed, as it would be typed; without one it is None.
        example: a value that is right, for messages.
        type: what the value must be, where ``value`` does not say it.
        read: name and text to the value; raises ConfigError for a wrong text.
        required: the verb does nothing without it.
        unless: an option in whose presence it is not required.
        short: ``-m``.
    """

    name: str
    help: str
    value: str = ""
    choices: tuple[str, ...] = ()
    default: str = ""
    example: str = ""
    type: str = ""
    read: Callable[[str, str], Any] | None = None
    required: bool = False
    unless: str = ""
    short: str = ""

    @property
    def is_flag(self) -> bool:
        return not (self.value or self.choices)

    @property
    def usage(self) -> str:
        """``--steps N``."""
        return f"{self.name} {self.value or '|'.join(self.choices)}".rstrip()

    @property
    def right(self) -> str:
        """``--steps 200``."""
        return f"{self.name} {self.example or self.default or [*self.choices, self.value][0]}"

    def parsed(self, text: str) -> Any:
        """The value that ``text`` stands for. Raises ConfigError for a wrong one."""
        if not text:
            raise ConfigError(f"{self.name}: needs a value", self.right)
        if self.choices and text not in self.choices:
            raise ConfigError(f"{self.name} {text}: there is no such choice", available(text, self.choices))
        return self.read(self.name, text) if self.read else text


@dataclass(frozen=True)
class Argument:
    """Words without a dash: RUN, DIR, KEY=VALUE.

    Attributes:
        name: what stands for the word on the help page, or the word itself.
        help: what it is, in a few words.
        least: how many there must be.
        most: how many there may be; None is any number.
        noun: what the verb needs, for messages.
        offer: the argument whose words completion offers here, where it is not this one.
    """

    name: str
    help: str
    least: int = 1
    most: int | None = 1
    noun: str = ""
    offer: str = ""

    @property
    def usage(self) -> str:
        """``RUN``, ``DIR…`` or ``[KEY=VALUE …]``."""
        if self.least:
            return self.name if self.most else f"{self.name}…"
        return f"[{self.name}]" if self.most else f"[{self.name} …]"

    @property
    def is_override(self) -> bool:
        return self.name.endswith("KEY=VALUE")


@dataclass(frozen=True)
class Asked:
    """What was typed after a verb.

    Attributes:
        words: the arguments, apart from the overrides.
        overrides: KEY=VALUE words.
        options: the value of every option of the verb: of a flag, whether it was typed.
    """

    words: tuple[str, ...]
    overrides: tuple[str, ...]
    options: Mapping[str, Any]

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    @property
    def run(self) -> str:
        """The first argument."""
        return self.words[0]


@dataclass(frozen=True)
class Command:
    """All that may be typed after a verb, and what is to be known of it.

    Attributes:
        module: the verb's module, whose last part is the verb.
        doc: the module's docstring: one sentence.
        arguments: the words without a dash; overrides last.
        options: the words with one.
        examples: what each does, and its command.
        exits: the exit codes of this verb, and what they mean here; empty for what they mean everywhere.
    """

    module: str
    doc: str | None
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    exits: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def usage(self) -> str:
        """``trainctl predict RUN --input FILE --output FILE [OPTIONS]``."""
        required = [option.usage for option in self.options if option.required]
        overrides = [each.usage for each in self.arguments if each.is_override]
        named = [each.usage for each in self.arguments if not each.is_override]
        optional = ["[OPTIONS]"] if len(required) < len(self.options) else []
        return " ".join(["trainctl", self.name, *named, *required, *overrides, *optional])

    @property
    def by_name(self) -> dict[str, Option]:
        """The options by every name that they have."""
        short = {option.short: option for option in self.options if option.short}
        return {option.name: option for option in self.options} | short

    def parse(self, words: Sequence[str]) -> Asked:
        """Sort and check the words after the verb.

        The value of an option is the next word, or follows an equals sign. Raises ConfigError for an unknown
        option, naming the nearest, a value that is missing or wrong, and too few or too many arguments.
        """
        plain, given = self._sorted(words)
        named, overrides = self._arguments(plain)
        missing = [
            option
            for option in self.options
            if option.required and option.name not in given and option.unless not in given
        ]
        if missing:
            rest = [option.right for option in self.options if option.required]
            raise ConfigError(
                f"{self.name} needs {missing[0].name}", " ".join(["trainctl", self.name, *named, *rest])
            )
        for option in self.options:
            if option.name not in given:
                default = option.parsed(option.default) if option.default else None
                given[option.name] = False if option.is_flag else default
        return Asked(tuple(named), tuple(overrides), given)

    def _sorted(self, words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
        plain: list[str] = []
        given: dict[str, Any] = {}
        known, left = self.by_name, list(words)
        while left:
            word = left.pop(0)
            name, equals, value = word.partition("=")
            option = known.get(name)
            if option is None and word.startswith("-"):
                raise ConfigError(
                    f"{word}: {self.name} has no such option", available(name, [*known, HELP.name])
                )
            if option is None:
                plain.append(word)
            elif not option.is_flag:
                if not equals and left and not left[0].startswith("--"):
                    value = left.pop(0)
                given[option.name] = option.parsed(value)
            elif equals:
                raise ConfigError(f"{word}: {name} takes no value", name)
            else:
                given[option.name] = True
        return plain, given

    def _arguments(self, plain: Sequence[str]) -> tuple[list[str], list[str]]:
        """The arguments, and the overrides: what has an equals sign and is no path, or begins with ``~``."""
        settings = any(each.is_override for each in self.arguments)
        expected = next((each for each in self.arguments if not each.is_override), None)
        if expected is None:
            return [], list(plain)
        named: list[str] = []
        overrides: list[str] = []
        for word in plain:
            enough = len(named) == expected.most
            if "=" in word and "=" not in expected.name and (enough or not _exists(word)):
                if not settings:
                    raise ConfigError(f"{word}: {self.name} takes no KEY=VALUE words", self.usage)
                overrides.append(word)
            elif settings and enough and word.startswith("~"):
                overrides.append(word)
            else:
                named.append(word)
        if len(named) < expected.least or (expected.most is not None and len(named) > expected.most):
            needs = f"needs {expected.noun or f'a {expected.name}'}"
            raise ConfigError(
                f"{self.name} {f'takes one {expected.name}, not ' + ' '.join(named) if named else needs}",
                f"trainctl {self.name} {expected.usage}: {expected.help}",
            )
        return named, overrides


def _exists(word: str) -> bool:
    with contextlib.suppress(OSError):  # too long for a name
        return Path(word).exists()
    return False


def available(given: str, known: Sequence[str]) -> str:
    """The nearest of the known names, then all of them."""
    return f"{did_you_mean(given, known)}choose one of: {', '.join(known)}"


# ------------------------------------------------------------------- what several verbs take

STDOUT = Path("-")
HELP = Option("--help", "show this page", short="-h")

RUN = Argument("RUN", "run directory, last, or a name given with name=")
RUN_OR_URL = Argument(
    "RUN", "run directory, last, a name, a URL of checkpoint.mirror, or a sweep, for its best run"
)
OVERRIDES = Argument("KEY=VALUE", "any setting of training: trainctl ls lists them", least=0, most=None)
CHECKPOINT = Option("--checkpoint", "which checkpoint", choices=("best", "last"), default="best")
TRUST = Option("--trust-plugins", "import plugins that changed or came from elsewhere")
FORCE = Option("--force", "replace the output file")
JSON = Option("--json", "print JSON")
CONFIG_DIR = Option("--config-dir", "one more folder of configs, beside ./conf", value="DIR")
CONFIG = (
    CONFIG_DIR,
    Option("--config-name", "another primary config, from --config-dir", value="NAME"),
)


def whole_number(name: str, help: str, default: str = "", *, example: str = "", least: int = 1) -> Option:
    """An option whose value is a whole number."""

    def read(option: str, text: str) -> int:
        if not text.isdecimal() or len(text) > 9 or int(text) < least:
            raise ConfigError(
                f"{option} {text}: must be a whole number, at least {least}", f"{option} {default or example}"
            )
        return int(text)

    return Option(
        name,
        help,
        "N",
        default=default,
        example=example,
        type=f"at least {least}" if least > 1 else "",
        read=read,
    )


def output_file(
    name: str,
    help: str,
    example: str,
    *,
    suffix: str = "",
    stdout: bool = False,
    missing: type[TrainctlError] = StorageError,
) -> Option:
    """An option that names a file to write, checked before the work: no folder, and in one that exists.

    ``-`` is standard output, where ``stdout`` allows it. Wrong is a name without ``suffix``, and a folder;
    where the folder of the file does not exist, ``missing`` is raised.
    """

    def read(option: str, text: str) -> Path:
        if stdout and text == "-":
            return STDOUT
        if suffix and Path(text).suffix.lower() != suffix:
            raise ConfigError(f"{option} {text}: must be an {suffix} file", f"{option} {example}")
        return checked_output(option, text, example, missing)

    return Option(name, help, f"FILE{suffix}", example=example, read=read)


def checked_output(option: str, text: str, example: str, missing: type[TrainctlError] = StorageError) -> Path:
    """The file that an option names. Raises ConfigError for a folder, ``missing`` without its folder."""
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
