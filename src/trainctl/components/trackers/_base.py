"""What a tracker is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Row = tuple[int, Mapping[str, float]]
"""A step and values by name: ``(860, {"val/loss": 0.14, "val/accuracy": 0.957})``."""


class Tracker(Protocol):
    """Takes what a run says of itself to somewhere else.

    Its constructor imports what it needs and raises ConfigError when that is not installed. The methods are
    called one after the other in a thread of the tracker's own, so it may be slow; what it raises switches it
    off and never stops the run.
    """

    def start(self, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        """Before the first row.

        A run that goes on tells all its rows again, from the first: what is there of it is to be taken up
        so that each stands there once.

        Args:
            directory: the run's.
            name: what to call the run.
            config: its settings by dotted key, references to the environment left as they are.
        """

    def metrics(self, rows: Sequence[Row]) -> None:
        """Rows in the order of their steps: losses and learning rates, evaluations, at last the test.

        Values may be NaN and infinite. A step may come twice, with other names.
        """

    def artifact(self, path: Path) -> None:
        """A file of the run that is finished: the best weights, the config, a picture."""

    def end(self, status: str) -> None:
        """At last: ``done``, ``failed``, ``interrupted`` or ``terminated``."""
