"""Shell completion of what Hydra does not know: verbs, short keys and options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

FLAGS = (
    "--help",
    "--hydra-help",
    "--version",
    "--cfg",
    "--resolve",
    "--package",
    "--run",
    "--multirun",
    "--shell-completion",
    "--config-name",
    "--config-dir",
    "--info",
)


def complete(options: Any) -> bool:
    """Print verbs, short keys and options that fit what is typed; False where Hydra adds its own.

    Shells that ask for a script to install are Hydra's business, too.
    """
    if not any(word.startswith("query=") for word in options.overrides):
        return False
    from trainctl.cli.commands.help import verbs
    from trainctl.config.overrides import ALIASES

    typed = os.environ.get("COMP_LINE", "").split(" ")[1:]
    flags: Sequence[str] = FLAGS
    first = len(typed) <= 1
    if not first and typed[0] == "trace":
        from trainctl.cli.commands import trace

        # Hydra completes overrides as if the verb were not there.
        flags, typed = list(trace.OPTIONS), trace.training_words(typed)
        os.environ["COMP_LINE"] = " ".join(["trainctl", *typed])
    current = typed[-1] if typed else ""
    offered = [*(verbs() if first else ()), *(f"{alias}=" for alias in ALIASES)]
    final = False
    if len(typed) > 1 and typed[0] in verbs():
        from trainctl.config.options import find_members

        groups = find_members()
        members = [f"{group}={name}" for group, names in groups.items() for name in names]
        offered, final = [*groups, *members] if typed[0] == "ls" else [], True
    elif current.startswith("-"):
        offered, final = list(flags), True
    print(" ".join(word for word in offered if word.startswith(current)), end="\n" if final else " ")
    return final
