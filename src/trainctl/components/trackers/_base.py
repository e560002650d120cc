"""The interface of a tracker."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class CleanNames:
    """Names with ``_`` for the characters that a tracker does not allow; different names stay different.

    The first of two that would be equal keeps the name, the second gets ``.2``.
    """

    def __init__(self, not_allowed: str) -> None:
        self._not_allowed = re.compile(not_allowed)
        self._given: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        plain = clean = self._not_allowed.sub("_", name)
        number = 1
        while self._given.setdefault(clean, name) != name:
            number += 1
            clean = f"{plain}.{number}"
        return clean


Row = tuple[int, Mapping[str, float]]
"""A step and values by name: ``(860, {"val/loss": 0.14, "val/accuracy": 0.957})``."""


class Tracker(Protocol):
    """Sends a run's metrics, config and files to another program.

    The constructor imports the package it needs, and raises ConfigError if that is not installed. The methods
    are called one after the other in the tracker's own thread, so it may be slow; an exception switches the
    tracker off and never stops the run.
    """

    def start(self, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        """Before the first row.

        A resumed run sends all its rows again, from the first: the tracker must not store a row twice.

        Args:
            directory: the run's.
            name: what to call the run.
            config: its settings by dotted key; references to the environment are not resolved.
        """

    def metrics(self, rows: Sequence[Row]) -> None:
        """Rows in the order of their steps: losses and learning rates, evaluations, finally the test.

        Values may be NaN and infinite. A step may come twice, with other names.
        """

    def artifact(self, path: Path) -> None:
        """A finished file of the run: the best weights, the config, a picture."""

    def end(self, status: str) -> None:
        """The last call: ``done``, ``failed``, ``interrupted`` or ``terminated``."""
