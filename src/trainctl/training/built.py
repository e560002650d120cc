"""A run that is ready to train, and what its checkpoints hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData, check_finite
from trainctl.data import preprocessing
from trainctl.data.fingerprint import data_fingerprint
from trainctl.data.inputs import plain_shape
from trainctl.data.types import Data
from trainctl.distributed.group import Group
from trainctl.registry.protocols import Loader, Stateful
from trainctl.training.prepare_data import class_counts
from trainctl.training.run import Run


@dataclass(frozen=True)
class Built:
    """A run that is ready to train, and notices for people.

    Attributes:
        described: of the data, what a reader of its checkpoints needs.
        fit: the training loop.
        resumes: whether an interrupted run can be resumed.
        trial_step: the step without its guard and not captured, for trials on copies.
        group: the processes that train this run, or None for one alone.
        choices: decisions such as whether the step is captured, for ``run.json``.
        fingerprints: of the data, by epoch, as far as they have been computed.
    """

    run: Run
    data: Data
    described: dict[str, Any]
    device: torch.device
    threads: int
    threads_note: str
    test: Loader | None
    monitor: str
    lower_is_better: bool
    fit: Callable[[Run], None]
    seed: int
    resumes: bool
    trial_step: Callable[..., Tensor]
    notices: tuple[str, ...]
    choices: Mapping[str, str]
    group: Group | None = None
    fingerprints: dict[int, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return sum(parameter.numel() for parameter in self.run.model.parameters())

    @property
    def trainable(self) -> int:
        """Parameters that are not frozen."""
        return sum(each.numel() for each in self.run.model.parameters() if each.requires_grad)

    @property
    def buffers(self) -> frozenset[str]:
        """Names of the model's buffers."""
        model = self.run.result
        return (
            frozenset(name for name, _ in model.named_buffers())
            if hasattr(model, "named_buffers")
            else frozenset()
        )

    @property
    def loaders(self) -> list[Loader]:
        run = self.run
        return [loader for loader in (run.train_loader, run.val_loader, self.test) if loader is not None]

    @property
    def loading(self) -> str:
        """The kind of loader: ``resident``, or its note."""
        loader = self.run.train_loader
        return str(getattr(loader, "note", type(loader).__name__))

    def data_fingerprint(self, epoch: int) -> str:
        """SHA-256 of the training targets in the order of ``epoch``: another one means another order."""
        if epoch not in self.fingerprints:
            order = getattr(self.run.train_loader, "order", "")  # of a stream, which its workers decide, too
            self.fingerprints[epoch] = data_fingerprint(self.data, self.seed, epoch) + order
        return self.fingerprints[epoch]

    def parts(self) -> dict[str, Stateful]:
        """The parts of a checkpoint beside the model and the state, by name."""
        parts = self.run.parts()  # those of several processes have their own
        return parts if "random" in parts else {**parts, "random": snapshot.RandomStates(self.device)}

    def snapshot(self, *, copied: bool = True) -> CheckpointData:
        """Everything that decides how the run goes on; not ``copied``, it holds until the next step."""
        state = self.run.state
        fingerprint = self.data_fingerprint(state.epoch)
        plain = {**state.state_dict(), "data": self.described, "data_fingerprint": fingerprint}
        return snapshot.take(self.run.result.state_dict(), plain, self.parts(), copied=copied)

    def shards(self) -> CheckpointData:
        """What this process adds to a checkpoint of rank 0's: its parts of sharded tensors, all finite."""
        step, model = {"step": self.run.state.step}, self.run.result.state_dict()
        content = snapshot.take(model, step, self.parts(), copied=False, parts_only=True)
        check_finite(content.model, content.step)
        return content

    def while_waiting(self, look: Callable[[], None]) -> None:
        """Have ``look`` called about once a second while the loop waits for a batch; it may raise."""
        for loader in self.loaders:
            if hasattr(loader, "feed"):
                loader.feed.while_waiting = look

    def close(self) -> None:
        """End the processes that load data."""
        for loader in self.loaders:
            if hasattr(loader, "close"):
                loader.close()


def describe(data: Data) -> dict[str, Any]:
    """Enough to build the model again, to give it inputs as in training, and to name its outputs."""
    counts = class_counts(data)
    return {
        "name": data.name,
        "task": data.task,
        "input_shape": plain_shape(data.input_shape),
        "output_size": data.output_size,
        "classes": list(data.classes),
        "class_counts": None if counts is None else counts.tolist(),
        "target_scale": None if data.readout is None else data.readout.described(),
        "fingerprint": dict(data.fingerprint),
        **preprocessing.describe(data),
    }
