"""What the first job of a group shows of all: whether it stacks, and how much memory a model takes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.components.loaders.resident import ResidentLoader
from trainctl.config.settings import Config
from trainctl.data import Data, Split
from trainctl.errors import TrainctlError
from trainctl.registry import plugins
from trainctl.training.build import Built, build
from trainctl.training.steps.stacked import Stack, StackedOptimizer, why_not

_SHARE = 0.5
_FOR_DATA = 0.125
_CHUNK = 8192
_RELATIVE, _ABSOLUTE = 1e-3, 1e-5


@dataclass(frozen=True)
class Probe:
    """What was found out.

    Attributes:
        reason: why the group cannot be stacked; None where it can.
        data: the splits, on the device.
        inputs: all training inputs on the device, ready for the model where ``is_transformed``, else raw.
        most: how many models the memory has room for.
        sample: a batch for one model, ready for it.
    """

    reason: str | None
    data: Data
    inputs: Tensor
    is_transformed: bool
    most: int
    sample: Tensor


def probe(config: Config, sharing: int = 1) -> Probe:
    """Build the job and try it. Raises TrainctlError as building does.

    ``sharing`` processes train on the same memory.
    """
    plugins.load(config.plugins)
    built = build(replace(config, threads=torch.get_num_threads()))
    loaders: list[Any] = [built.run.train_loader, built.run.val_loader, built.test]
    reason = _misfit(built, loaders)
    if reason is not None:
        return Probe(reason, built.data, torch.empty(0), False, 0, torch.empty(0))
    train, val, test = (None if loader is None else loader.split for loader in loaders)
    assert train is not None
    data = replace(built.data, train=train, val=val, test=test)
    try:
        with warnings.catch_warnings():
            # torch falls back to one model at a time, with a warning: slower than without a stack.
            warnings.filterwarnings("error", message=".*batching rule")
            reason, size = _try(built)
    except TrainctlError:
        raise
    except Exception as error:
        missing = "torch has no stacked form of a part of it" if isinstance(error, UserWarning) else None
        reason, size = f"its model does not stack: {missing or _first_line(error)}", 1
    if reason is None and not _is_by_sample(data):
        reason = "its inputs depend on the rest of their batch"
    if reason is not None:
        return Probe(reason, data, train.inputs, False, 0, torch.empty(0))
    free = free_memory(built.device)
    inputs, is_transformed = _transformed(data, free)
    sample = data.transform(train.inputs[:2])
    return Probe(None, data, inputs, is_transformed, max(1, int(_SHARE * free / sharing / size)), sample)


def _misfit(built: Built, loaders: Sequence[Any]) -> str | None:
    run = built.run
    if built.device.type not in ("cpu", "cuda"):
        return f"device={built.device.type} has no stacked form"
    if not all(loader is None or isinstance(loader, ResidentLoader) for loader in loaders):
        return "its data is loaded sample by sample"
    if not isinstance(run.model, nn.Module) or not isinstance(run.criterion, nn.Module):
        return "its model or loss is no module of torch"
    return why_not(run.optimizer)


def _try(built: Built) -> tuple[str | None, int]:
    """Take the gradients of two stacked models, and of each on its own: why they differ, or None, and how
    many bytes a model takes."""
    run: Any = built.run
    batches = iter(run.train_loader.batches())
    first, second = next(batches), next(batches, None)
    pairs = [(first.inputs, first.targets)]
    if second is None or second.inputs.shape != first.inputs.shape:
        pairs.append((first.inputs.flip(0), first.targets.flip(0)))
    else:
        pairs.append((second.inputs, second.targets))

    models = [copy.deepcopy(run.model) for _ in pairs]
    buffers = [buffer.clone() for buffer in models[0].buffers()]
    random_state = _random_state(built.device)
    saved: dict[int, int] = {}
    losses, gradients = [], []
    for model, (inputs, targets) in zip(models, pairs, strict=True):
        own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with torch.autograd.graph.saved_tensors_hooks(_counting(saved), lambda tensor: tensor):
            loss = run.criterion(model(inputs), targets)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, own))
    if not torch.equal(random_state, _random_state(built.device)):
        return "its model draws random numbers while it trains", 1
    if any(not torch.equal(*pair) for pair in zip(buffers, models[0].buffers(), strict=True)):
        return "its model keeps running statistics", 1

    stack = Stack(models, run.criterion, first.inputs)
    StackedOptimizer(stack, models, [_for(run, model) for model in models])
    inputs, targets = (torch.stack(each) for each in zip(*pairs, strict=True))
    stacked = stack.losses(stack.outputs(inputs), targets)
    found = torch.autograd.grad(stacked.sum(), stack.trained)
    if not _close(stacked.detach(), torch.stack(losses)) or not all(
        _close(each, torch.stack(own)) for each, own in zip(found, zip(*gradients, strict=True), strict=True)
    ):
        return "stacked, its model computes something else", 1
    state = sum(tensor.nbytes for tensor in [*run.model.parameters(), *run.model.buffers()])
    batch = first.inputs.nbytes + first.targets.nbytes
    # Weights, gradients and two moments; weights and moments again, to go back to; what backward keeps, and
    # its gradients.
    return None, 7 * state + 2 * sum(saved.values()) // len(pairs) + 2 * batch + 1


def _for(run: Any, model: nn.Module) -> Any:
    """The run's optimizer, as it would be for ``model``."""
    _, optimizer = copy.deepcopy((run.model, run.optimizer))
    for group, own in zip(optimizer.param_groups, run.optimizer.param_groups, strict=True):
        names = {id(tensor): name for name, tensor in run.model.named_parameters()}
        parameters = dict(model.named_parameters())
        group["params"] = [parameters[names[id(tensor)]] for tensor in own["params"]]
    optimizer.state.clear()
    return optimizer


def _counting(saved: dict[int, int]) -> Any:
    def count(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes
        return tensor

    return count


def _close(one: Tensor, other: Tensor) -> bool:
    scale = float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=_RELATIVE, atol=_ABSOLUTE * scale, equal_nan=True)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


# ------------------------------------------------------------------ data and memory


def _is_by_sample(data: Data) -> bool:
    """Whether the transform does to a sample what it does to it in any batch."""
    assert isinstance(data.train, Split)
    inputs = data.train.inputs[:16]
    parts = [data.transform(inputs[:5]), data.transform(inputs[5:])] if len(inputs) > 5 else []
    return not parts or torch.equal(data.transform(inputs), torch.cat(parts))


def _transformed(data: Data, free: int) -> tuple[Tensor, bool]:
    """The training inputs as the model gets them, once for all epochs, where there is room for them."""
    assert isinstance(data.train, Split)
    inputs = data.train.inputs
    one = data.transform(inputs[:1])
    if one.nbytes * len(inputs) > _FOR_DATA * free:
        return inputs, False
    return torch.cat([data.transform(piece) for piece in torch.split(inputs, _CHUNK)]), True


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device; for the CPU what the system, or the process's own limit, leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        if most != "max":
            limits.append(max(0, int(most) - int(used)))
    except (OSError, ValueError):
        pass
    return min(limits, default=2**31)
