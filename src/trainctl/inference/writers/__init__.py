"""Predictions to files: a table, or a folder of masks."""

from __future__ import annotations

from pathlib import Path

from trainctl.components.tasks._base import Task
from trainctl.errors import ConfigError
from trainctl.inference.readers.base import Source
from trainctl.inference.trained_run import Trained
from trainctl.inference.writers.base import Writer
from trainctl.inference.writers.masks import MaskRecords, Masks, check_folder
from trainctl.inference.writers.table import Records, Table, check_file


def check_output(output: Path, source: Path, task: Task, *, replace: bool = False) -> None:
    """Raise ConfigError where predictions of ``task`` cannot be written to ``output``; a file with something
    else than predictions is lost only if ``replace``."""
    if output.exists() and output.resolve() == source.resolve():
        raise ConfigError(f"--output {output}: is the input", "name another one")
    if task.masks:
        check_folder(output)
    else:
        check_file(output, replace=replace)
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}", "create it first")


def records_of(source: Source, trained: Trained) -> MaskRecords | Records:
    """What keeps the predictions of ``trained`` for ``source`` as plain values."""
    return MaskRecords(source, trained) if trained.task.masks else Records(source, trained)


def open_writer(output: Path, source: Source, trained: Trained) -> Writer:
    """What writes the predictions of ``trained`` for ``source`` to ``output``."""
    return Masks(output, source, trained) if trained.task.masks else Table(output, source, trained)
