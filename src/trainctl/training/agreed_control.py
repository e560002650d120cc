"""Requests of hooks in several processes, which all of them obey after the same step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainctl import errors
from trainctl.distributed.group import Group
from trainctl.errors import Problem, TrainctlError
from trainctl.training.run import Control, Run

_LOOKS = 8
"""Steps on a GPU between two looks at what others ask for, each of which waits for the device."""


class AgreedControl(Control):
    """Requests of the hooks of all processes, obeyed by all of them after the same step.

    That one has been made is told with the losses of the next step, after which it is obeyed: on a GPU after
    the next step whose number is a multiple of eight. Checkpoints of every so many steps are known to all and
    come at their step.

    Attributes:
        asked_by_any: whether a process had a request when the newest losses were added up.
        looks: further steps after which all obey at once, the same in every process.
    """

    run: Run

    def __init__(self, group: Group, every_steps: int | None) -> None:
        super().__init__()
        self.group, self.every_steps = group, every_steps
        self.asked_by_any: Any = False
        self.looks: frozenset[int] = frozenset()

    @property
    def asked(self) -> bool:
        return self._asked

    def agreed(self) -> bool:
        state = self.run.state
        if state.evaluated == state.step:
            asked = self.group.any(self._asked)
        else:
            saves = state.step in self.looks or (
                self.every_steps is not None and state.step % self.every_steps == 0
            )
            waits = self.group.device.type == "cuda"
            asked = saves or ((not waits or state.step % _LOOKS == 0) and bool(self.asked_by_any))
        if not asked:
            return False
        self.asked_by_any = False
        error = self.error and (type(self.error).__name__, [vars(each) for each in self.error.problems])
        told = self.group.gather((self.reason, error, self.saving))
        self.reason = next((reason for reason, _, _ in told if reason is not None), None)
        failed = next((error for _, error, _ in told if error is not None), None)
        self.error = self.error or (None if failed is None else _as_error(*failed))
        self.saving = any(saving for _, _, saving in told)
        return True

    def interrupt(self) -> None:
        """Nothing: the other processes wait for this one at the end of the evaluation."""


def obey_at(run: Run, steps: Iterable[int]) -> None:
    """Have all processes of ``run``, each of which calls this, obey requests of these steps at once."""
    assert isinstance(run.control, AgreedControl)
    run.control.looks = frozenset(steps)


def _as_error(name: str, problems: list[dict[str, str]]) -> TrainctlError:
    kind: type[TrainctlError] = getattr(errors, name, TrainctlError)
    return kind([Problem(**each) for each in problems])
