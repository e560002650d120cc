"""What a hook is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from trainctl.training.loop import Run


class Hook:
    """Watches a run. A hook overrides what it needs; the loop's docstring draws when each method runs.

    A hook that does not override ``step`` costs nothing a step.
    """

    def start(self, run: Run) -> None:
        """Before the first step."""

    def step(self, run: Run, loss: Tensor) -> None:
        """After each step. ``loss`` is still on the device: reading it there waits for the device."""

    def poll(self, run: Run) -> None:
        """Between the batches of an evaluation."""

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        """After an epoch and its evaluation; ``values`` is empty without a validation split."""

    def end(self, run: Run) -> None:
        """After the last step and its evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of this hook: tensors, numbers, text, lists and dictionaries of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what :meth:`state_dict` said, before ``start``."""
