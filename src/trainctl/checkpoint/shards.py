"""Tensors of which each of several processes holds a part.

FSDP cuts a tensor along its first dimension, in the order of the processes. Each process writes its parts
into files of its own; whoever reads them puts the parts together. Imports no part of torch that a run on one
device does without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainctl.checkpoint.format import CheckpointData, commit, folder_name, put_tensors
from trainctl.checkpoint.store import LocalStore

Gather = Callable[[Any], list[Any]]


def is_sharded(tensor: Any) -> bool:
    """Whether this process holds only a part of ``tensor``: it is a DTensor of torch."""
    return hasattr(tensor, "to_local")


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other tensor as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def cut_like(tensor: Tensor, other: Any) -> Tensor:
    """A whole ``tensor`` cut as ``other`` is; unchanged where ``other`` is whole, or it is cut already."""
    if not is_sharded(other) or is_sharded(tensor) or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import DTensor

    # Every process has read the whole: none has to send anything.
    own, mesh = other.to_local(), other.device_mesh
    parts, rank = tensor.chunk(mesh.size()), mesh.get_local_rank()
    part = parts[rank] if rank < len(parts) else tensor[:0]
    shape = {"shape": other.shape, "stride": other.stride()}
    return DTensor.from_local(part.to(own.device), mesh, other.placements, run_check=False, **shape)


def takes_whole_tensors(model: nn.Module) -> None:
    """From now on ``load_state_dict`` of this sharded ``model`` takes whole tensors, too."""

    def cut(_: Any, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        own = model.state_dict()
        for name in own.keys() & state_dict.keys():
            state_dict[name] = cut_like(state_dict[name], own[name])

    model.register_load_state_dict_pre_hook(cut)  # type: ignore[no-untyped-call]


def optimizer_takes_whole_tensors(optimizer: Any) -> None:
    """From now on ``load_state_dict`` of this ``optimizer`` of sharded parameters takes whole tensors."""

    def cut(optimizer: Any, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        own = dict(zip(numbers, parameters, strict=False))
        state = {
            number: {
                key: cut_like(value, own.get(number)) if isinstance(value, Tensor) else value
                for key, value in values.items()
            }
            for number, values in state_dict["state"].items()
        }
        return {**state_dict, "state": state}

    optimizer.register_load_state_dict_pre_hook(cut)


def save_together(folder: Path, content: CheckpointData, rank: int, gather: Gather) -> Path:
    """Write a checkpoint with the other processes, which all call this, into a folder that all of them see.

    Rank 0 writes what is whole, its own parts and at last the manifest. Nothing is there before.
    Raises OSError when the disk will not take it.
    """
    name = folder_name(content.step)
    store = LocalStore(folder)
    if rank == 0:
        exists = name in store.list(committed=False)
        if not exists:
            store.begin(name)
        gather((os.getpid(), exists))
    else:
        process, exists = gather(None)[0]
        store = LocalStore(folder, begun={name: process})
    if exists:
        return folder / name
    try:
        found = gather(put_tensors(store, name, content, rank))
        if rank == 0:
            commit(store, name, content, {file: entry for each in found for file, entry in each.items()})
    except BaseException:
        if rank == 0:
            store.discard(name)
        raise
    return folder / name
