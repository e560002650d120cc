"""Shell completion: the scripts for bash, zsh and fish, and what they ask for at each TAB.

Without Hydra, which takes a second to begin.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

from trainctl.cli import offers
from trainctl.cli.commands import declaration, verbs
from trainctl.cli.commands.help import TRAIN
from trainctl.cli.options import HELP, OVERRIDES, Command, Option
from trainctl.errors import ConfigError

# The shell names the program as it was typed: that of a virtual environment may not be on PATH.
_SCRIPTS = {
    "bash": """\
_trainctl() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
        COMP_LINE=$COMP_LINE COMP_POINT=$COMP_POINT COMP_WORD=$2 "${1/#~/$HOME}" -sc query=bash 2>/dev/null
    )
}
complete -o nospace -F _trainctl trainctl
""",
    "zsh": """\
_trainctl() {
    local -a lines offers shown
    local line="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX"
    lines=("${(@f)$(COMP_LINE=$line ${~words[1]} -sc query=zsh 2>/dev/null)}")
    offers=("${(@)lines%%$'\\t'*}")
    shown=("${(@)lines//$'\\t'/  }")
    [[ -n $lines ]] && compadd -Q -U -S '' -l -d shown -a offers
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _trainctl trainctl
""",
    "fish": """\
function __trainctl
    set -lx COMP_LINE (commandline -cp | string collect)
    set -l program (string replace -r '^~' ~ -- (commandline -cpo)[1])
    $program -sc query=fish 2>/dev/null
end
complete -c trainctl -f -a '(__trainctl)'
""",
}
_REMOVAL = {
    "bash": "complete -r trainctl",
    "zsh": "compdef -d trainctl",
    "fish": "complete -c trainctl -e",
}
_SPECIAL = re.compile(r"[^\w@%+=:,./~-]")


def run(words: Sequence[str]) -> int:
    """``trainctl -sc install=SHELL``, ``uninstall=SHELL``, or, for the scripts, ``query=SHELL``."""
    what, _, shell = " ".join(words).partition("=")
    if what not in ("install", "uninstall", "query") or shell not in _SCRIPTS:
        raise ConfigError(
            f"-sc {' '.join(words)}: must be install=bash, install=zsh or install=fish",
            'eval "$(trainctl -sc install=bash)"; trainctl --help shows the options',
        )
    if what != "query":
        print(_SCRIPTS[shell].rstrip() if what == "install" else _REMOVAL[shell])
        return 0
    line = os.environ.get("COMP_LINE", "")
    typed, current, quote = split(line[: int(os.environ.get("COMP_POINT") or len(line))])
    for text, said in offered(typed, current).items():
        if text.isprintable() and (found := _written(shell, text, current, quote)) is not None:
            print(f"{found}\t{said}" if said.isprintable() and said and shell != "bash" else found)
    return 0


def split(line: str) -> tuple[list[str], str, str]:
    """The words of a command line after the program's name, the one that is being typed, its open quote."""
    for quote in ("", "'", '"'):
        try:
            *before, last = shlex.split(f"{line}\0{quote}")
        except ValueError:
            continue
        return before[1:], last.rstrip("\0"), quote
    return [], "", ""


def _written(shell: str, text: str, current: str, quote: str) -> str | None:
    """A word as the shell puts it into the line; None where the open quote does not hold it."""
    if shell == "fish":
        return text  # it quotes, and adds a space, by itself
    if shell == "bash":
        # Bash replaces the word from its last break on, such as an equals sign.
        _, word, _ = split(f"trainctl {os.environ.get('COMP_WORD', current)}")
        text = text[len(current) - len(word) :] if current.endswith(word) else text
    if quote:
        return text if not set(text) & set("'\"$`\\!") else None
    return _SPECIAL.sub(r"\\\g<0>", text) + ("" if text.endswith(("=", "/", ".")) else " ")


def offered(words: Sequence[str], current: str) -> offers.Offers:
    """What fits after ``words``, and begins with ``current``."""
    if words and words[0] in verbs():
        found = _after(declaration(words[0]), words[1:], current)
    else:
        found = ({} if words else verbs()) | _after(TRAIN, words, current)
    return {text: said for text, said in found.items() if text.startswith(current)}


def _after(command: Command, words: Sequence[str], current: str) -> offers.Offers:
    """Values, options or arguments: what is due after the words of a command."""
    known, plain = command.by_name, 0
    waiting: Option | None = None
    for word in words:
        if waiting is not None:
            waiting = None
        elif (option := known.get(word)) is not None:
            waiting = None if option.is_flag else option
        elif "=" not in word and not word.startswith(("-", "~")):
            plain += 1
    if waiting is not None:
        return _values(waiting, words, current)
    name, equals, value = current.partition("=")
    if equals and (option := known.get(name)) is not None and not option.is_flag:
        return {f"{name}={text}": said for text, said in _values(option, words, value).items()}
    if current.startswith("-"):
        options = {option.name: option.help for option in (*command.options, HELP)}
        return {name: said for name, said in options.items() if name not in words}
    found: offers.Offers = {}
    for argument in command.arguments:
        if argument.is_override or argument.most is None or plain < argument.most:
            found |= _offers(argument.offer or argument.name, words, current)
            if not argument.is_override and plain < argument.least:
                break  # first things first
    return found


def _values(option: Option, words: Sequence[str], current: str) -> offers.Offers:
    return dict.fromkeys(option.choices, "") if option.choices else _offers(option.value, words, current)


def _offers(kind: str, words: Sequence[str], current: str) -> offers.Offers:
    """The words for what stands on the help page: RUN, FILE|FOLDER, KEY=VALUE, auto|N.

    Args:
        kind: what stands for the word.
        words: the words before, after the verb.
        current: the word that is being typed.
    """
    if kind.endswith(OVERRIDES.name):
        from trainctl.cli.offered_settings import settings

        group = kind.removesuffix(OVERRIDES.name).rstrip(".")
        return {word: "" for word in settings(words, current or group) if word.startswith(group)}
    found: offers.Offers = {}
    for each in kind.split("|"):
        if each == "RUN":
            found |= offers.runs() | (offers.paths(current, folders=True) if current else {})
        elif each.startswith("FILE"):
            found |= offers.paths(current)
        elif each in ("DIR", "FOLDER"):
            found |= offers.paths(current, folders=True)
        elif each == "VERB":
            found |= verbs()
        elif each == "DEVICE":
            found |= dict.fromkeys(offers.DEVICES, "")
        elif each.startswith("GROUP"):
            found |= _members(current)
        elif each.islower():
            found[each] = ""
    return found


def _members(current: str) -> offers.Offers:
    """Groups for ``ls``, or the options of the one that is typed."""
    from trainctl.config.options import find_members

    groups, (group, equals, _) = find_members(), current.partition("=")
    return dict.fromkeys((f"{group}={each}" for each in groups.get(group, ())) if equals else groups, "")
