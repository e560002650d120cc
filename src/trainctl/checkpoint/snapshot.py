"""The state of a run as plain values and tensors, and the way back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from trainctl.checkpoint.format import CheckpointData
from trainctl.checkpoint.shards import is_sharded, local_part
from trainctl.errors import CheckpointError
from trainctl.registry.protocols import Model, Stateful

Packed = Any
"""Plain JSON values in which a tensor is ``{"tensor": name}``, a tuple ``{"tuple": […]}``, a dictionary
``{"items": [[key, value], …]}``, because JSON has neither tuples nor keys that are numbers."""


def take(
    model: Mapping[str, Tensor],
    plain: Mapping[str, Any],
    parts: Mapping[str, Stateful],
    *,
    copied: bool = True,
    parts_only: bool = False,
) -> CheckpointData:
    """Copy everything that decides how a run goes on: training may continue while the copy is written.

    Not ``copied``, tensors on the CPU are those of the run. Of sharded tensors this process's parts are
    taken; ``parts_only`` takes nothing else, for a process that saves beside another one.

    Args:
        model: parameters and buffers by name.
        plain: plain JSON values, which go into the state as they are; ``step`` is among them.
        parts: what has a state of its own, by name. Reading it must have no side effects.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    return assemble(model, plain, states, copied=copied, parts_only=parts_only)


def assemble(
    model: Mapping[str, Tensor],
    plain: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Any]],
    *,
    copied: bool = True,
    parts_only: bool = False,
) -> CheckpointData:
    """The content of a checkpoint, from a model and from states that were read before."""
    tensors: dict[str, Tensor] = {}
    parts = {name: pack(state, tensors, name) for name, state in states.items()}
    take = _copied if copied else _on_cpu

    def taken(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        wanted = {name: tensor for name, tensor in given.items() if not parts_only or is_sharded(tensor)}
        return {name: take(local_part(tensor)) for name, tensor in wanted.items()}

    return CheckpointData(taken(model), taken(tensors), {**plain, "parts": parts})


def weights(model: Model) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers, on the CPU, by name."""
    return {name: _copied(tensor) for name, tensor in model.state_dict().items()}


def restore(content: CheckpointData, parts: Mapping[str, Stateful]) -> None:
    """Give each of ``parts`` its state in ``content``.

    Raises CheckpointError where the names differ: a state that is not there, or that nothing takes.
    """
    stored = content.state["parts"]
    absent, unknown = sorted(parts.keys() - stored.keys()), sorted(stored.keys() - parts.keys())
    if absent or unknown:
        what = (
            f"has no state of {absent[0]}"
            if absent
            else f"holds the state of {unknown[0]}, which the run lacks"
        )
        raise CheckpointError(
            f"the checkpoint {what}: an exact resume is not possible", "nothing was changed"
        )
    for name, part in parts.items():
        part.load_state_dict(unpack(stored[name], content.training))


class RandomStates:
    """The states of Python's, NumPy's and torch's generators, and of the device's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def state_dict(self) -> dict[str, Any]:
        version, words, gauss = random.getstate()
        name, keys, *rest = numpy.random.get_state(legacy=True)
        states = {
            "python": (version, torch.tensor(words, dtype=torch.int64), gauss),
            "numpy": (name, torch.from_numpy(numpy.asarray(keys).astype(numpy.int64)), *rest),
            "torch": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.device.type == "mps":
            states["mps"] = torch.mps.get_rng_state()
        return states

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Put them back. Raises KeyError for one that is missing."""
        version, words, gauss = states["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
        name, keys, *rest = states["numpy"]
        numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), *rest))
        torch.set_rng_state(states["torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], self.device)
        if self.device.type == "mps":
            torch.mps.set_rng_state(states["mps"])


def pack(value: Any, tensors: dict[str, Tensor], name: str) -> Packed:
    """``value`` as plain JSON; its tensors go into ``tensors`` under names that begin with ``name``.

    Raises CheckpointError for what is neither a value nor a tensor: it could not be read back without pickle.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, list | tuple):
        packed = [pack(item, tensors, f"{name}.{index}") for index, item in enumerate(value)]
        return packed if isinstance(value, list) else {"tuple": packed}
    if isinstance(value, Mapping):
        items = [[key, pack(item, tensors, f"{name}.{key}")] for key, item in value.items()]
        return {"items": items}
    if isinstance(value, numpy.generic):
        return pack(value.item(), tensors, name)
    raise CheckpointError(
        f"{name} is a {type(value).__name__}, which a checkpoint cannot hold",
        "a state_dict has tensors, numbers, text, and lists and dictionaries of them",
    )


def unpack(packed: Packed, tensors: Mapping[str, Tensor]) -> Any:
    """The way back from :func:`pack`."""
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in content)
    return {key: unpack(item, tensors) for key, item in content}


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous()
