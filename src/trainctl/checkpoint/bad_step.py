"""A step that went wrong, kept whole: the run before it, its batch, its random numbers, its config.

A capsule is a checkpoint's folder, ``RUN/capsules/step-00000861`` for the step after 860, whose tensors
include the batch and whose state has a ``capsule``. It needs no dataset to be run again, and holds no pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainctl.checkpoint.format import CheckpointData, read_checkpoint
from trainctl.errors import CheckpointError, UnsafeInputError

_INPUTS, _TARGETS, _RANDOM = "batch.inputs", "batch.targets", "batch.random"


@dataclass(frozen=True)
class Capsule:
    """A bad step.

    Attributes:
        content: the run before it.
        inputs, targets: its batch, or its window of batches, on the CPU.
        random_state: torch's before it, on the kind of device it ran on.
        device: that kind, such as ``cuda``.
        threads: torch's on the CPU.
        why: what was found not finite.
        config: the run's config, YAML.
        plugins: name, path and SHA-256 of each of the run's plugins.
        input_shape, output_size, class_counts: what the model and the criterion are built from.
    """

    content: CheckpointData
    inputs: Tensor
    targets: Tensor
    random_state: Tensor
    device: str
    threads: int
    why: str
    config: str
    plugins: tuple[Mapping[str, str], ...]
    input_shape: tuple[int, ...]
    output_size: int
    class_counts: tuple[int, ...] | None

    @property
    def step(self) -> int:
        """The number of the bad step."""
        return self.content.step + 1


def of(
    before: CheckpointData,
    inputs: Tensor,
    targets: Tensor,
    random_state: Tensor,
    described: Mapping[str, Any],
) -> CheckpointData:
    """The capsule of the step after ``before``.

    ``random_state`` is torch's before the step, of the device that the batch is on. ``described`` says
    ``why``, ``config`` and ``plugins``.
    """
    batch = {_INPUTS: inputs.detach().cpu(), _TARGETS: targets.detach().cpu(), _RANDOM: random_state}
    where = {"device": inputs.device.type, "threads": torch.get_num_threads()}
    state = {**before.state, "capsule": {**where, **described}}
    return CheckpointData(before.model, {**before.training, **batch}, state)


def read(path: Path) -> Capsule:
    """The capsule in the folder ``path``, verified as a checkpoint is.

    Raises CheckpointError for what is damaged or no capsule, UnsafeInputError for what no capsule of
    trainctl's holds: a link, a pickle.
    """
    _refuse_links(path)
    content = read_checkpoint(path)
    state = content.state
    if not isinstance(state.get("capsule"), dict):
        raise CheckpointError(
            f"{path} is a checkpoint, not a capsule", "capsules are in the run's capsules folder"
        )
    try:
        kept, data, tensors = state["capsule"], state["data"], content.training
        counts = data["class_counts"]
        found = Capsule(
            content=content,
            inputs=tensors[_INPUTS],
            targets=tensors[_TARGETS],
            random_state=tensors[_RANDOM],
            device=_of(str, kept["device"]),
            threads=_of(int, kept["threads"]),
            why=_of(str, kept["why"]),
            config=_of(str, kept["config"]),
            plugins=tuple(
                {key: _of(str, each[key]) for key in ("name", "path", "sha256")} for each in kept["plugins"]
            ),
            input_shape=tuple(_of(int, size) for size in data["input_shape"]),
            output_size=_of(int, data["output_size"]),
            class_counts=None if counts is None else tuple(_of(int, count) for count in counts),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no usable capsule: {type(error).__name__}: {error}") from error
    return found


def newest(run: Path) -> Path:
    """The newest capsule of a run. Raises CheckpointError where it has none."""
    found = sorted((run / "capsules").glob("step-*"), key=lambda path: (len(path.name), path.name))
    if not found:
        raise CheckpointError(
            f"{run} has no capsule", "one is kept where the guard stops a run whose loss is not finite"
        )
    return found[-1]


def _refuse_links(path: Path) -> None:
    try:
        found = sorted(path.iterdir())
    except OSError as error:
        raise CheckpointError(f"{path} is no capsule: {error.strerror}") from error
    for each in found:
        if each.is_symlink():
            raise UnsafeInputError(f"{each} is a link", "a capsule holds plain files only: copy the file")


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
