"""The verbs of the command line, one a file: what may be typed (COMMAND), and what it does (``run``).

The docstring of the file is one sentence, its help. No file imports torch before ``run`` is called.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trainctl.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from trainctl.cli.options import Command


def verbs() -> dict[str, str]:
    """The verbs and the sentence of each, read from the files of this folder."""
    return {path.stem: path.read_text(encoding="utf-8").split('"""', 2)[1] for path in _files()}


def _files() -> list[Path]:
    return sorted(Path(__file__).parent.glob("[!_]*.py"))


def declaration(verb: str) -> Command:
    """What may be typed after a verb. Raises ConfigError where there is none of this name."""
    command: Command = command_module(verb).COMMAND
    return command


def command_module(verb: str) -> ModuleType:
    """The module of a verb. Raises ConfigError where there is none of this name."""
    known = [path.stem for path in _files()]
    if verb not in known:
        remedy = did_you_mean(verb, known, "trainctl ")
        raise ConfigError(
            f"{verb}: there is no such command",
            f"{remedy}commands: {', '.join(known)}; to train, give KEY=VALUE words",
        )
    return importlib.import_module(f"{__name__}.{verb}")
