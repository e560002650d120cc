"""The command line: verbs, options, exit codes, the error screen. Imports no torch.

The first word is a verb if it has no ``=`` and does not begin with ``-``, ``+`` or ``~``; everything else is
Hydra's: ``trainctl model=mlp lr=1e-3``, ``-m``, ``--cfg job``, ``-sc install=bash``.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from trainctl import __version__
from trainctl.cli import completion
from trainctl.cli.start import start
from trainctl.distributed.context import World, check_meeting_place, launched
from trainctl.errors import (
    ConfigError,
    StorageError,
    TrainctlError,
    nearest,
)
from trainctl.training.failures import as_told
from trainctl.training.interrupts import Stopped, held_back, terminable
from trainctl.training.startup import collector_paused, importing, wait_passively
from trainctl.ui.errors import show_error
from trainctl.ui.streams import unbreakable_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code. Errors are shown, never raised.

    What cannot be printed stops no command: 0 if the reader has gone, 5 if the output could not be stored.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    with unbreakable_streams() as output:
        code = answered(lambda: _dispatch(words))
        output.flush()
        if code == 0 and isinstance(output.error, OSError) and not isinstance(output.error, BrokenPipeError):
            code = _report(
                StorageError(
                    f"writing standard output failed: {output.error.strerror}",
                    "the command itself is done; only what it printed is incomplete",
                )
            )
    return code


def answered(work: Callable[[], int]) -> int:
    """The exit code of ``work``; an error is shown."""
    wait_passively()
    try:
        with terminable():
            return work()
    except (Exception, SystemExit, KeyboardInterrupt, Stopped) as error:
        return _report(as_told(error, "reading or writing"))


def _report(error: TrainctlError) -> int:
    if os.environ.get("TRAINCTL_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
    show_error(error)
    return error.exit_code


def _dispatch(words: list[str]) -> int:
    verb = _verb(words)
    if verb is None and (asked := {"-sc", "--shell-completion"} & set(words)):
        return completion.run([word for word in words if word not in asked])
    if {"--help", "-h"} & set(words):
        return _run_verb("help", [verb] if verb else [])
    if (world := launched()) is not None and _trains_together(words, world):
        check_meeting_place()
        if world.rank > 0:
            return _follow(world)
    if verb is not None:
        return _run_verb(verb, words[1:])
    if "--version" in words:
        print(f"trainctl {__version__}")
        return 0
    return _run_hydra(words)


def _verb(words: list[str]) -> str | None:
    """The command that the first word names; None where all of them are Hydra's."""
    return words[0] if words and "=" not in words[0] and words[0][:1] not in ("-", "+", "~", "") else None


def _trains_together(words: list[str], world: World) -> bool:
    """Whether the processes that torchrun or srun has started train one model, as they should.

    Raises ConfigError for a command of one process.
    """
    verb = _verb(words)
    if verb in (None, "resume") and not {"-m", "--multirun"} & set(words):
        return not {"--version", "--cfg", "-c", "--info", "-i"} & set(words)
    raise ConfigError(
        f"{verb or '-m'}: works in one process, and WORLD_SIZE={world.size}",
        "start it without torchrun; training and resume go with it",
    )


def _follow(world: World) -> int:
    """Be one of the processes that torchrun or srun has started: rank 0 alone reads the command."""
    with importing():
        from trainctl.training.together import follow_launched

    follow_launched(world)
    return 0


def _run_verb(name: str, words: list[str]) -> int:
    from trainctl.cli.commands import command_module

    module = command_module(name, words)
    if {"-m", "--multirun"} & set(words) and name != "plan":
        raise ConfigError(
            f"{name} -m: sweeps go with training and plan only", "trainctl -m KEY=VALUE,VALUE …"
        )
    code: int = module.run(words)
    return code


# ------------------------------------------------------------------- Hydra


def _run_hydra(words: list[str]) -> int:
    from trainctl.config.hydra_internals import argument_parser
    from trainctl.config.overrides import to_hydra

    before = {name: os.environ.get(name) for name in ("HYDRA_FULL_ERROR",)}
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        parser = argument_parser()
        parser.error = partial(_refuse_option, words)  # type: ignore[method-assign]
        options = parser.parse_args(words)
        _refuse_unsupported(options)
        options.overrides = [to_hydra(word, sweep=options.multirun) for word in options.overrides]
        if options.cfg or options.info or options.hydra_help:
            return _show(options, parser)
        return _train(options, words)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _refuse_option(words: list[str], message: str) -> NoReturn:
    from trainctl.cli.commands import as_setting
    from trainctl.cli.commands.help import TRAIN

    said = message.split()
    asked = next((word for word in words if word[:1] == "-" and word in said), said[-1])
    unknown = asked.partition("=")[0]
    following = words[words.index(asked) + 1 :] if asked in words else ()
    if (setting := as_setting(asked, following)) is not None:
        raise ConfigError(f"{unknown}: settings are typed as KEY=VALUE", setting)
    close = nearest(unknown, [option.name for option in TRAIN.options]) if unknown.startswith("-") else None
    raise ConfigError(message, f"did you mean {close}?" if close else "trainctl --help shows the options")


def _refuse_unsupported(options: Any) -> None:
    """Raise ConfigError for options of Hydra that would have no effect."""
    if options.config_path is not None:
        raise ConfigError(
            "--config-path: trainctl's own configs are always used", "add a folder with --config-dir DIR"
        )
    if options.experimental_rerun is not None:
        raise ConfigError(
            "--experimental-rerun: not supported", "a run's overrides are in its overrides.yaml"
        )
    if options.resolve and not options.cfg:
        raise ConfigError("--resolve: requires --cfg", "trainctl --cfg job --resolve")
    if options.package is not None and not options.cfg:
        raise ConfigError("--package: requires --cfg", "trainctl --cfg job --package model")
    several = options.multirun or "hydra.mode=MULTIRUN" in options.overrides
    wrong, right = ("hydra.run.dir", "hydra.sweep.dir") if several else ("hydra.sweep.dir", "hydra.run.dir")
    if not options.cfg and any(word.lstrip("+").startswith(f"{wrong}=") for word in options.overrides):
        raise ConfigError(f"{wrong}: the directory of {'a sweep' if several else 'a run'} is {right}")


def _show(options: Any, parser: Any) -> int:
    """``--cfg``, ``--info`` and ``--hydra-help``: Hydra's own, on trainctl's configs."""
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf
    from yaml import YAMLError

    from trainctl.config.composer import COMPOSITION_ERRORS, Composer, without_hydra
    from trainctl.config.hydra_errors import message_with_key
    from trainctl.config.hydra_internals import run_hydra
    from trainctl.paths import conf_directory

    composer = Composer(options.config_dir, options.config_name)
    if options.cfg == "job" and options.package is None:
        full, problems, notices = composer.compose_tree(options.overrides)
        if problems:
            raise ConfigError(problems)
        for notice in notices:
            print(f"# {notice}")
        try:
            print(OmegaConf.to_yaml(without_hydra(full), resolve=options.resolve), end="")
        except COMPOSITION_ERRORS as error:
            raise ConfigError(message_with_key(error)) from error
        return 0
    GlobalHydra.instance().clear()
    # Hydra prints through logging, which reports a closed pipe at length.
    logging.raiseExceptions = False
    program, sys.argv[0] = sys.argv[0], "trainctl"
    try:
        run_hydra(options, parser, lambda config: None, str(conf_directory()), "config")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except COMPOSITION_ERRORS as error:
        raise ConfigError(message_with_key(error)) from error
    except (ValueError, YAMLError) as error:
        raise ConfigError(str(error).partition("\n")[0], "trainctl --help shows the options") from error
    finally:
        sys.argv[0] = program
    return 0


def _train(options: Any, words: list[str]) -> int:
    if not (options.multirun or "hydra.mode=MULTIRUN" in options.overrides):
        return start(options.overrides, words, options.config_dir, options.config_name)
    with held_back(), collector_paused():
        from trainctl.config.composer import Composer
        from trainctl.sweep.start import sweep
        from trainctl.training.request import command_line
        from trainctl.ui.sweep import TerminalReporter

        composer = Composer(options.config_dir, options.config_name)
    return sweep(composer, options.overrides, command_line(words), TerminalReporter())
