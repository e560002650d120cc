"""A run, its hooks, and their requests to the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from trainctl.components.metrics._base import Metric
from trainctl.data.readout import RAW, Readout
from trainctl.errors import TrainctlError
from trainctl.registry.protocols import Batch, Criterion, Cursor, Loader, Model, Optimizer, Stateful
from trainctl.training.state import State


class Hook:
    """Watches a run. A hook overrides the events it needs; the docstring of the loop draws their order.

    A hook that overrides neither ``batch`` nor ``step`` costs nothing a step. A hook never replaces the step,
    a method of the optimizer or the criterion: it asks ``run.control`` to stop or to save.

    Attributes:
        name: of its state in checkpoints and in ``run.json``. By default the class's.
    """

    name: ClassVar[str] = "hook"

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def start(self, run: Run) -> None:
        """Before the first step."""

    def batch(self, run: Run, batch: Batch) -> None:
        """Before each step. The tensors of ``batch`` may be filled by the step only (``Run.batches``)."""

    def step(self, run: Run, loss: Tensor) -> None:
        """After each step. ``loss`` is still on the device: reading it there waits for the device."""

    def poll(self, run: Run) -> None:
        """Between the batches of an evaluation, and while the loop waits for a batch."""

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        """After an epoch and its evaluation; ``values`` is empty without a validation split."""

    def settle(self, run: Run) -> None:
        """Before a checkpoint is taken: finish what is pending."""

    def save(self, run: Run) -> None:
        """A checkpoint was asked for; every hook has settled."""

    def end(self, run: Run) -> None:
        """After the last step and its evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """State for a resumed run: tensors, numbers, text, lists and dictionaries of them."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, before ``start``."""

    def overrides(self, event: str) -> bool:
        """Whether this hook has something to do at ``event``."""
        return getattr(type(self), event) is not getattr(Hook, event)


class Control:
    """Requests of hooks. The loop obeys them between two steps and after each evaluation.

    Attributes:
        reason: to stop training, or None.
        error: ends the run instead of an ordinary stop.
        saving: a checkpoint is requested.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.error: TrainctlError | None = None
        self.saving = False
        self._asked = False

    def stop(self, reason: str, error: TrainctlError | None = None) -> None:
        """Ask for the end of training; the first reason and the first error count.

        With an ``error`` the run is interrupted, and can be resumed.
        """
        if error is None:
            self.reason = self.reason or reason
        else:
            self.error = self.error or error
        self._asked = True

    def save(self) -> None:
        """Ask for a checkpoint."""
        self.saving = self._asked = True

    def agreed(self) -> bool:
        """Whether there is any request. On several devices, where they agree: ``AgreedControl``."""
        return self._asked

    def interrupt(self) -> None:
        """Raise the requested error, in the middle of an evaluation or of a wait."""
        if self._asked and self.error is not None:
            raise self.error

    def clear(self) -> None:
        """Forget all requests."""
        self.reason, self.error, self.saving, self._asked = None, None, False, False


@dataclass
class Run:
    """Everything the loop works on.

    Attributes:
        step: the whole training step, called as :func:`trainctl.training.loop.train_step`.
        step_name: for the header and the record: ``plain, loss guard``.
        averaged: the model with averaged weights, or None.
        readout: outputs and targets in the unit of the data, for metrics.
        batches: gives the loop its batches in the place of the loader, in tensors that the step fills; None:
            the loader does.
        gather: gives the values of all processes that train together, in their order; None for one alone.
        announce: called with a topic, a line for people and a word to record.
    """

    model: Model
    criterion: Criterion
    optimizer: Optimizer
    scheduler: LRScheduler | None
    train_loader: Loader
    val_loader: Loader | None
    metrics: Mapping[str, Callable[[], Metric]]
    precision: AbstractContextManager[Any]
    total_steps: int
    step: Callable[..., Tensor]
    step_name: str = "plain"
    state: State = field(default_factory=State)
    control: Control = field(default_factory=Control)
    hooks: list[Hook] = field(default_factory=list)
    averaged: Model | None = None
    readout: Readout = RAW
    batches: Callable[[Cursor], Iterable[Batch]] | None = None
    gather: Callable[[Any], list[Any]] | None = None
    announce: Callable[[str, str, str], None] = lambda topic, text, word: None

    @property
    def result(self) -> Model:
        """The model that is evaluated and saved: with averaged weights, if there are any."""
        return self.model if self.averaged is None else self.averaged

    def attach(self, hooks: Sequence[Hook], *, first: bool = False) -> None:
        """Add hooks behind the others, or before them. Raises ValueError where two have the same name."""
        self.hooks = [*hooks, *self.hooks] if first else [*self.hooks, *hooks]
        names = [hook.name for hook in self.hooks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two hooks are called {twice[0]}")

    def hook(self, name: str) -> Any:
        """The hook called ``name``, or None."""
        return next((hook for hook in self.hooks if hook.name == name), None)

    def call(self, event: str, *arguments: Any) -> None:
        """Call the hooks at ``event``, in their order."""
        for hook in self.hooks:
            getattr(hook, event)(self, *arguments)

    def save(self) -> None:
        """Have a checkpoint taken of the run as it stands between two steps."""
        self.call("settle")
        self.call("save")

    def obey(self) -> None:
        """Do what hooks have asked for. Raises the requested error."""
        reason, error, saving = self.control.reason, self.control.error, self.control.saving
        self.control.clear()
        if reason is not None and self.state.stop is None:
            self.state.stop = reason
        if saving:
            self.save()
        if error is not None:
            raise error

    def parts(self) -> dict[str, Stateful]:
        """The parts of a checkpoint beside the model and the state, by name."""
        parts: dict[str, Stateful] = {"optimizer": self.optimizer}
        if self.scheduler is not None:
            parts["scheduler"] = self.scheduler
        return parts | {hook.name: hook for hook in self.hooks if hook.overrides("state_dict")}
