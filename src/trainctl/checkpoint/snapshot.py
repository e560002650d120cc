"""A run at an instant, as plain values and tensors, and the way back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from trainctl.checkpoint.format import CheckpointData
from trainctl.errors import CheckpointError, ConfigError
from trainctl.registry.protocols import Model
from trainctl.training.loop import Run

Packed = Any
"""Plain JSON values in which a tensor is ``{"tensor": name}``, a tuple ``{"tuple": […]}``, a dictionary
``{"items": [[key, value], …]}``, because JSON has neither tuples nor keys that are numbers."""


def take(run: Run, described: Mapping[str, Any], device: torch.device) -> CheckpointData:
    """Copy everything that decides how ``run`` goes on: training may continue while it is written.

    ``described`` goes into the state as it is. Hooks that have something pending bring it to its file.
    """
    return assemble(gather(run), described, random_states(device))


def gather(run: Run) -> dict[str, Any]:
    """What :func:`assemble` makes a checkpoint of; the tensors are the run's own, not copies."""
    return {
        "state": run.state.values(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": None if run.scheduler is None else run.scheduler.state_dict(),
        "hooks": {type(hook).__name__: hook.state_dict() for hook in run.hooks},
        "model": run.result.state_dict(),
    }


def assemble(
    gathered: Mapping[str, Any], described: Mapping[str, Any], states: Mapping[str, Any]
) -> CheckpointData:
    """The content of a checkpoint, copied from what was gathered, with the random states ``states``."""
    tensors: dict[str, Tensor] = {}
    state = {
        **gathered["state"],
        "optimizer": pack(gathered["optimizer"], tensors, "optimizer"),
        "scheduler": pack(gathered["scheduler"], tensors, "scheduler"),
        "hooks": {name: pack(kept, tensors, f"hooks.{name}") for name, kept in gathered["hooks"].items()},
        "random": pack(states, tensors, "random"),
        **described,
    }
    model = {name: _copied(tensor) for name, tensor in gathered["model"].items()}
    return CheckpointData(model, tensors, state)


def weights(model: Model) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers, on the CPU, by name."""
    return {name: _copied(tensor) for name, tensor in model.state_dict().items()}


def restore(run: Run, content: CheckpointData, device: torch.device) -> None:
    """Make ``run`` what it was when ``content`` was taken.

    Raises ConfigError where model or optimizer are other ones, CheckpointError where something is missing.
    """
    state, tensors = content.state, content.training
    try:
        run.model.load_state_dict(content.model)
    except (RuntimeError, KeyError) as error:
        raise ConfigError(
            f"the checkpoint's parameters do not fit the model: {_misfit(run, content, error)}",
            "leave the model's arguments as they are; init_from=RUN starts a new run from what fits",
        ) from error
    try:
        run.optimizer.load_state_dict(unpack(state["optimizer"], tensors))
        if run.scheduler is not None:
            run.scheduler.load_state_dict(unpack(state["scheduler"], tensors))
        for hook in run.hooks:
            kept = state["hooks"].get(type(hook).__name__)
            if kept is not None:
                hook.load_state_dict(unpack(kept, tensors))
        run.state.take(dict(state))
        set_random_states(unpack(state["random"], tensors), device)
    except ValueError as error:
        raise ConfigError(f"the checkpoint's optimizer does not fit: {error}") from error
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint lacks {error}: an exact resume is not possible") from error


def _misfit(run: Run, content: CheckpointData, error: Exception) -> str:
    """The first tensor that does not fit, and how."""
    own = run.model.state_dict()
    for name in sorted({*content.model, *own}):
        there, here = (
            tuple(tensors[name].shape) if name in tensors else "absent" for tensors in (content.model, own)
        )
        if there != here:
            return f"{name} is {there} there, {here} here"
    return " ".join(str(error).split())


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, and of the device's."""
    version, words, gauss = random.getstate()
    name, keys, *rest = numpy.random.get_state(legacy=True)
    states = {
        "python": (version, torch.tensor(words, dtype=torch.int64), gauss),
        "numpy": (name, torch.from_numpy(numpy.asarray(keys).astype(numpy.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Put them back. Raises KeyError for one that is missing."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = states["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    if device.type == "mps":
        torch.mps.set_rng_state(states["mps"])


def pack(value: Any, tensors: dict[str, Tensor], name: str) -> Packed:
    """``value`` as plain JSON; its tensors go, copied, into ``tensors`` under names that begin with ``name``.

    Raises CheckpointError for what is neither a value nor a tensor: it could not be read back without pickle.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[name] = _copied(value)
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
