"""A run, the hooks that watch it, and what they may ask of the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from trainctl.errors import TrainctlError
from trainctl.registry.protocols import Batch, Criterion, Loader, Model, Optimizer, Stateful
from trainctl.training.state import State


class Metric(Protocol):
    def update(self, outputs: Tensor, targets: Tensor) -> None: ...
    def compute(self) -> float | Mapping[str, float]: ...


class Hook:
    """Watches a run. A hook overrides the events it needs; the docstring of the loop draws when each comes.

    A hook that overrides neither ``batch`` nor ``step`` costs nothing a step. A hook never replaces the step,
    a method of the optimizer or the criterion: it asks ``run.control`` to stop or to save.

    Attributes:
        name: under this name the hook's state is in a checkpoint, and the header names it.
    """

    name: ClassVar[str]

    def start(self, run: Run) -> None:
        """Before the first step."""

    def batch(self, run: Run, batch: Batch) -> None:
        """Before each step."""

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
        """What a resumed run needs of this hook: tensors, numbers, text, lists and dictionaries of them."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, before ``start``."""

    def overrides(self, event: str) -> bool:
        """Whether this hook has something to do at ``event``."""
        return getattr(type(self), event) is not getattr(Hook, event)


class Control:
    """What hooks ask of the loop. The loop looks between two steps and after each evaluation.

    Attributes:
        reason: why training is to stop, or None.
        error: the error that ends the run instead of an ordinary stop.
        saving: whether a checkpoint is asked for.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.error: TrainctlError | None = None
        self.saving = False
        self._asked = False

    def stop(self, reason: str, error: TrainctlError | None = None) -> None:
        """Ask for the end of training. With an ``error`` the run is broken off: a resumed run goes on.

        The first reason counts, and the first error.
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
        """Whether anything is asked for. The one place where several devices would have to agree."""
        return self._asked

    def interrupt(self) -> None:
        """Raise the error that a hook has asked for, in the middle of an evaluation or of a wait."""
        if self._asked and self.error is not None:
            raise self.error

    def clear(self) -> None:
        """Forget what was asked for: it has been done."""
        self.reason, self.error, self.saving, self._asked = None, None, False, False


@dataclass
class Run:
    """Everything the loop works on.

    Attributes:
        step: the whole training step, called as :func:`trainctl.training.loop.train_step`.
        step_name: what ``step`` is, for the header and the record: ``plain, loss guard``.
        averaged: the model with averaged weights, where there is one.
        announce: told what is found out while the run goes: a topic, a line for people, a word to record.
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
    announce: Callable[[str, str, str], None] = lambda topic, text, word: None

    @property
    def result(self) -> Model:
        """The model that is evaluated and saved: the one with averaged weights, where there is one."""
        return self.model if self.averaged is None else self.averaged

    def attach(self, hooks: Sequence[Hook], *, first: bool = False) -> None:
        """Have more hooks watch the run, behind the others or before them.

        Raises ValueError where two have the same name.
        """
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
        """Do what hooks have asked for. Raises the error that one of them broke the run off with."""
        reason, error, saving = self.control.reason, self.control.error, self.control.saving
        self.control.clear()
        if reason is not None and self.state.stop is None:
            self.state.stop = reason
        if saving:
            self.save()
        if error is not None:
            raise error

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds beside the model and the state, by name."""
        parts: dict[str, Stateful] = {"optimizer": self.optimizer}
        if self.scheduler is not None:
            parts["scheduler"] = self.scheduler
        return parts | {hook.name: hook for hook in self.hooks if hook.overrides("state_dict")}
