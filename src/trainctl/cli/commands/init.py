"""Make a small project that trains."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from trainctl.cli.options import Argument, Command, Option
from trainctl.errors import ConfigError, storage_error
from trainctl.paths import conf_directory

_STARTER = Path(__file__).resolve().parents[1] / "starter"
# Under its own name it would apply to trainctl's repository, too.
_RENAMED = {"gitignore": ".gitignore"}
_NEXT = "trainctl experiment=first"
COMMAND = Command(
    __name__,
    __doc__,
    (Argument("DIR", "folder, new or empty (default: the current one)", least=0),),
    (Option("--force", "add the project to a folder that has files; none of them is changed"),),
    examples=(
        ("A model, its config, an experiment and a README.", "trainctl init my_project"),
        ("The same in this folder.", "trainctl init"),
    ),
)


def run(words: Sequence[str]) -> int:
    """Write a model, its config, an experiment and a README into DIR, by default the current folder.

    Existing files are never changed: where the folder has some, or with ``--force`` one of the project's,
    nothing is written and ConfigError (exit 2) is raised. Raises StorageError where it cannot be written.
    """
    asked = COMMAND.parse(words)
    folder = Path([*asked.words, "."][0]).expanduser()
    files = starter_files()
    _check(folder, files, force=asked["--force"])
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(content)
    except OSError as error:
        failure = storage_error(error, "making the project")
        raise type(failure)(str(failure), "name another folder: trainctl init DIR") from error
    print(f"made {folder.resolve()}")
    for name in files:
        print(f"  {name}")
    print("conf/local.yaml loads my_net.py for every command that is typed in this folder")
    here = folder.resolve() == Path.cwd()
    print(f"next: {_NEXT}" if here else f"next: cd {shlex.quote(str(folder))} && {_NEXT}")
    return 0


def starter_files() -> dict[str, bytes]:
    """The files of a new project, by their path in it."""
    found = sorted(path for path in _STARTER.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = [path.relative_to(_STARTER).as_posix() for path in found]
    return {_RENAMED.get(name, name): path.read_bytes() for name, path in zip(names, found, strict=True)}


def _check(folder: Path, files: dict[str, bytes], *, force: bool) -> None:
    """Raise ConfigError where a file of the project exists already, or the folder is none, or in use."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"init {folder}: is a file", "name a folder that is new, or empty")
    if folder.resolve() in conf_directory().resolve().parents:
        raise ConfigError(f"init {folder}: this is trainctl's own folder", "name one of your own")
    taken = [name for name in files if os.path.lexists(folder / name)]
    if taken:
        there = "is there already" if len(taken) == 1 else "are there already"
        raise ConfigError(
            f"init {folder}: {', '.join(taken)} {there}; nothing was written",
            "name another folder: trainctl init DIR",
        )
    # A repository that has just been made is empty.
    inside = sorted(path.name for path in folder.glob("*") if path.name[0] != ".")
    if inside and not force:
        raise ConfigError(
            f"init {folder}: the folder is not empty, there is {inside[0]}; nothing was written",
            "name a new one: trainctl init DIR; --force adds the project to what is there",
        )
