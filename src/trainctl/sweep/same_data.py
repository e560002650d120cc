"""All jobs of a sweep are trained on the same data: otherwise their numbers do not rank the settings."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from trainctl.config.settings import Config
from trainctl.errors import ConfigError, TrainctlError
from trainctl.registry import DATASETS
from trainctl.sweep.ledger import Job, Ledger, Row

if TYPE_CHECKING:
    from trainctl.training.built import Built

log = logging.getLogger("trainctl")


def with_data(ledger: Ledger, job: Job, row: Row, config: Config, built: Built) -> Row:
    """``row`` with a digest of the data that ``job`` is about to be trained on.

    The first job that was trained with the same settings of the data says what it must be. Raises ConfigError
    where it is something else. Data of a plugin, which may be random, is compared between jobs of one seed,
    and differences are only said.
    """
    is_own = config.dataset.name not in DATASETS.foreign()
    asked = [config.dataset, config.loss.name, config.loop.name, config.init_from, is_own or config.seed]
    names = [each["name"] for each in built.data.reading.get("columns", ())]
    found = [built.data.fingerprint, names, list(built.data.classes)]
    row = replace(row, data=f"{_digest(asked)} {_digest(found)}")
    other = _first(ledger, job, row.data or "")
    if other is None:
        return row
    said = f"dataset={config.dataset.name}: not the data that job {other} of this sweep was trained on"
    if differences := _differences(ledger, other, built):
        said = f"{said} ({differences})"
    if is_own:
        raise ConfigError(said, "put the data back, or train the sweep again in another directory")
    log.warning("%s", said)
    return row


def _first(ledger: Ledger, job: Job, data: str) -> int | None:
    """The number of the first other job with the same settings and data of its own, if that differs."""
    for number, then in ledger.begun():
        if number == job.number:
            continue
        if then.state in ("running", "done") and (then.data or "").split()[:1] == data.split()[:1]:
            return None if then.data == data else number
    return None


def _differences(ledger: Ledger, number: int, built: Built) -> str:
    """How the data differs from that of job ``number``, in words, where it has a checkpoint."""
    from trainctl.checkpoint.retention import newest_valid
    from trainctl.data.fingerprint import differences

    try:
        _, content, _ = newest_valid(ledger.directory / str(number) / "checkpoints")
        return "; ".join(differences(content.state, built.data))
    except TrainctlError:
        return ""


def _digest(values: object) -> str:
    text = json.dumps(values, default=vars, sort_keys=True)
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:16]
