"""The page of each verb, from its declaration: on a terminal (``--help``) and in docs/commands.md.

``python -m trainctl.cli.pages > docs/commands.md`` writes the latter anew.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

from trainctl.cli.commands import declaration, verbs
from trainctl.cli.options import HELP, Command, Option

WIDTH = 80
EXIT_CODES = {
    0: "done",
    1: "internal error",
    2: "usage, config, data or shape error",
    3: "unsafe input refused",
    4: "no usable checkpoint",
    5: "disk or I/O error",
    6: "loss or gradients not finite",
    7: "run directory taken",
    8: "a data worker or rank died or hung",
    130: "interrupted",
    143: "terminated",
}
"""Exit codes, the same for every verb."""

_ALWAYS = (0, 1, 2, 5, 130, 143)
_LABELS = 27


def page(command: Command) -> str:
    """What ``trainctl VERB --help`` prints, in 80 columns."""
    arguments = [(each.usage, each.help) for each in command.arguments]
    options = [(label(option), detail(option)) for option in (*command.options, HELP)]
    examples = [f"  {line}\n{_indented(what, 6)}" for what, line in command.examples]
    parts = [
        (command.doc or "").partition("\n")[0],
        "\n".join(_wrapped(command.usage, "usage: ", " " * 9)),
        f"arguments\n{columns(arguments)}" if arguments else "",
        f"options\n{columns(options)}",
        "examples\n" + "\n".join(examples),
        f"exit codes\n{exit_codes(exits(command))}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def label(option: Option) -> str:
    """``-m, --multirun``; ``--steps N``."""
    return f"{option.short}, {option.usage}" if option.short else option.usage


def detail(option: Option) -> str:
    """What an option does, with the type of its value, its default, and whether it must be there."""
    default = f"default: {option.default}" if option.default else ""
    notes = [note for note in ("required" if option.required else "", option.type, default) if note]
    return f"{option.help} ({', '.join(notes)})" if notes else option.help


def columns(rows: Iterable[tuple[str, str]], labels: int = _LABELS) -> str:
    """Labels on the left, wrapped texts on the right; a label that is too long has a line of its own."""
    lines = []
    for name, text in rows:
        long = len(name) > labels - 4
        if long:
            lines.append(f"  {name}")
        lines += _wrapped(text, " " * labels if long else f"  {name}".ljust(labels), " " * labels)
    return "\n".join(lines)


def exits(command: Command) -> dict[int, str]:
    """The exit codes that a verb can end with, in order, and their meanings."""
    meant = dict.fromkeys(_ALWAYS, "") | dict(command.exits)
    return {code: meant[code] or EXIT_CODES[code] for code in sorted(meant)}


def exit_codes(meanings: Mapping[int, str]) -> str:
    """Exit codes, a line each."""
    return columns([(f"{code:>3}", text) for code, text in meanings.items()], 7)


def _indented(text: str, indent: int) -> str:
    return "\n".join(_wrapped(text, " " * indent, " " * indent))


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def markdown() -> str:
    """docs/commands.md."""
    commands = [declaration(verb) for verb in verbs()]
    listed = [f"| [`{each.name}`](#{each.name}) | {each.doc} |" for each in commands]
    head = "# Commands\n\n`trainctl VERB --help` shows the same on a terminal.\n\n"
    return (
        f"{head}| command | does |\n|---|---|\n"
        + "\n".join(listed)
        + "\n"
        + "".join(f"\n{_section(each)}" for each in commands)
    )


def _section(command: Command) -> str:
    rows = [(each.usage, each.help) for each in command.arguments]
    rows += [(label(option), detail(option)) for option in command.options]
    table = "".join(f"| `{_cell(name)}` | {_cell(text)} |\n" for name, text in rows)
    examples = "\n".join(f"# {what}\n{line}" for what, line in command.examples)
    codes = " · ".join(f"{code} {text}" for code, text in exits(command).items())
    return (
        f"## {command.name}\n\n{command.doc}\n\n```text\n{command.usage}\n```\n\n"
        + (f"| | |\n|---|---|\n{table}\n" if rows else "")
        + f"```text\n{examples}\n```\n\nExit codes: {codes}.\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(markdown(), end="")
