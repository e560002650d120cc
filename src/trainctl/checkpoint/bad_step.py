"""A capsule: all that is needed to run a bad step again, without its dataset.

It is a checkpoint's folder, ``RUN/capsules/step-00000861`` for the step after 860, with the state of the run
before the step. The batch is among its tensors; device, config and plugins are in its state as ``capsule``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from trainctl.checkpoint.format import CheckpointData, read_checkpoint
from trainctl.data.files import identity
from trainctl.data.inputs import Inputs
from trainctl.errors import CheckpointError, UnsafeInputError

_INPUTS, _TARGETS, _RANDOM = "batch.inputs", "batch.targets", "batch.random"
_PLUGIN_KEYS = ("name", "path", "sha256")


class Capsule(BaseModel):
    """A bad step.

    Attributes:
        content: the run before the step.
        inputs, targets: the batch, or all micro-batches of the step, on the CPU.
        random_state: torch's before the step, on ``device``.
        device: the kind of device, such as ``cuda``.
        threads: torch's on the CPU.
        why: what was found bad.
        config: YAML.
        task, input_shape, output_size, class_counts: what the model and the loss are built from.
    """

    model_config = ConfigDict(strict=True, frozen=True, arbitrary_types_allowed=True)

    content: CheckpointData
    inputs: Tensor | Inputs
    targets: Tensor
    random_state: Tensor
    device: str
    threads: int
    why: str
    config: str
    plugins: list[dict[str, str]]
    task: str
    input_shape: list[int] | dict[str, list[int]]
    output_size: int
    class_counts: list[int] | list[list[int]] | None

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

    ``random_state`` is torch's before the step, of the batch's device. ``described`` has ``why``, ``config``
    and ``plugins``.
    """
    batch = {_TARGETS: targets.detach().cpu(), _RANDOM: random_state}
    if isinstance(inputs, Inputs):
        batch |= {f"{_INPUTS}.{name}": part for name, part in inputs.detach().cpu().parts.items()}
    else:
        batch[_INPUTS] = inputs.detach().cpu()
    where = {"device": inputs.device.type, "threads": torch.get_num_threads()}
    state = {**before.state, "capsule": {**where, **described}}
    return CheckpointData(before.model, {**before.training, **batch}, state)


def read(path: Path) -> Capsule:
    """Read the capsule in the folder ``path``, verified as a checkpoint is.

    One that training replaces meanwhile is read again. Raises CheckpointError where it is damaged or not a
    capsule, UnsafeInputError for a link or a pickle.
    """
    before = identity(path)
    try:
        return _read(path)
    except CheckpointError:
        if identity(path) == before:
            raise
    return read(path)


def _read(path: Path) -> Capsule:
    try:
        links = [each for each in sorted(path.iterdir()) if each.is_symlink()]
    except OSError as error:
        raise CheckpointError(f"cannot read the capsule {path}: {error.strerror}") from error
    if links:
        raise UnsafeInputError(f"{links[0]} is a link", "a capsule must hold plain files only: copy the file")
    content = read_checkpoint(path)
    state, tensors = content.state, content.training
    kept = state.get("capsule")
    if not isinstance(kept, dict):
        raise CheckpointError(f"{path} is a checkpoint, not a capsule", "see the run's capsules folder")
    try:
        batch = {"inputs": _inputs(state["data"], tensors), "targets": tensors.get(_TARGETS)}
        values = {**state["data"], **kept, **batch, "random_state": tensors.get(_RANDOM), "content": content}
        values["plugins"] = [{key: each[key] for key in _PLUGIN_KEYS} for each in kept["plugins"]]
        return Capsule.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        reason = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
    except (KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise CheckpointError(f"cannot use the capsule {path}: {reason}")


def newest(run: Path) -> Path:
    """The newest capsule of a run. Raises CheckpointError where it has none."""
    found = sorted((run / "capsules").glob("step-*"), key=lambda path: (len(path.name), path.name))
    if not found:
        raise CheckpointError(
            f"{run} has no capsule", "the guard saves one when it stops a run at a loss that is not finite"
        )
    return found[-1]


def _inputs(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """The inputs as the step got them; None where they are missing."""
    shape = data["input_shape"]
    if isinstance(shape, dict):  # in its order: that of the tensors is the alphabet's
        return Inputs({name: tensors[f"{_INPUTS}.{name}"] for name in shape})
    return tensors.get(_INPUTS)
