"""Hydra's private names: no other module imports them, so that another version of Hydra is met here."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra as run_hydra
from hydra._internal.utils import get_args_parser

__all__ = [
    "BasicSweeper",
    "Callbacks",
    "ConfigSearchPathImpl",
    "FileConfigSource",
    "Hydra",
    "argument_parser",
    "run_hydra",
]


def argument_parser() -> argparse.ArgumentParser:
    """The parser of Hydra's own options."""
    with _unchecked_help():
        return get_args_parser()


@contextlib.contextmanager
def _unchecked_help() -> Iterator[None]:
    """From Python 3.14 on argparse looks into each help text, and one of Hydra 1.3's is an object."""
    owner = next((each for each in argparse.ArgumentParser.__mro__ if "_check_help" in vars(each)), None)
    if owner is None:
        yield
        return
    check = vars(owner)["_check_help"]
    setattr(owner, "_check_help", lambda parser, action: None)  # noqa: B010 - older versions have none
    try:
        yield
    finally:
        setattr(owner, "_check_help", check)  # noqa: B010
