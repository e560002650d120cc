"""The first job of a group, tried for all: whether it stacks, and the memory that a model takes."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.components.loaders.resident import ResidentLoader
from trainctl.config.settings import Config
from trainctl.data import Data, Split
from trainctl.errors import TrainctlError
from trainctl.registry import plugins
from trainctl.runs.machine import available_memory
from trainctl.training.build import build
from trainctl.training.built import Built
from trainctl.training.steps.stack import Stack
from trainctl.training.steps.stacked import StackedOptimizer, why_not

_SHARE = 0.5
_FOR_DATA = 0.125
_CHUNK = 8192
_RELATIVE, _ABSOLUTE = 1e-3, 1e-5


@dataclass(frozen=True)
class Probe:
    """A group that can be stacked.

    Attributes:
        data: the splits, on the device.
        inputs: all training inputs on the device, ready for the model where ``is_transformed``, else raw.
        most: how many models the memory has room for.
        sample: a batch for one model, ready for it.
    """

    data: Data
    inputs: Tensor
    is_transformed: bool
    most: int
    sample: Tensor


def probe(config: Config, sharing: int = 1) -> Probe | str:
    """Build the job and try it; returns the reason where it cannot be stacked.

    ``sharing`` processes train on the same memory. Raises TrainctlError as building does.
    """
    plugins.load(config.plugins)
    plain = config.train.model_copy(update={"capture": False})
    built = build(replace(config, threads=torch.get_num_threads(), train=plain))
    loaders: list[Any] = [built.run.train_loader, built.run.val_loader, built.test]
    if (reason := _misfit(built, loaders)) is not None:
        return reason
    train, val, test = (None if loader is None else loader.split for loader in loaders)
    assert train is not None
    data = replace(built.data, train=train, val=val, test=test)
    try:
        with warnings.catch_warnings():
            # torch falls back to one model at a time, with a warning: slower than without a stack.
            warnings.filterwarnings("error", message=".*batching rule")
            with _exact_products():
                size = _try(built)
    except TrainctlError:
        raise
    except UserWarning:
        return "its model does not stack: torch has no stacked form of a part of it"
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        return f"its model does not stack: {said or type(error).__name__}"
    if isinstance(size, str):
        return size
    if not _is_by_sample(data, train):
        return "its inputs depend on the rest of their batch"
    free = free_memory(built.device)
    one = data.transform(train.inputs[:1])
    inputs, is_transformed = train.inputs, one.nbytes * len(train.inputs) <= _FOR_DATA * free
    if is_transformed:
        inputs = torch.cat([data.transform(piece) for piece in torch.split(inputs, _CHUNK)])
    most = max(1, int(_SHARE * free / sharing / size))
    return Probe(data, inputs, is_transformed, most, data.transform(train.inputs[:2]))


def _misfit(built: Built, loaders: Sequence[Any]) -> str | None:
    run = built.run
    if built.device.type not in ("cpu", "cuda"):
        return f"device={built.device.type} has no stacked form"
    if not all(loader is None or isinstance(loader, ResidentLoader) for loader in loaders):
        return "its data is loaded sample by sample"
    if getattr(built.data.train, "chunks", None) is not None:
        return "its order mixes windows of shards"
    if not isinstance(run.model, nn.Module) or not isinstance(run.criterion, nn.Module):
        return "its model or loss is no module of torch"
    return why_not(run.optimizer)


def _try(built: Built) -> int | str:
    """Compare the gradients of two stacked models with those of each on its own: why they differ, or the
    bytes that a model takes."""
    run: Any = built.run
    batches = iter(run.train_loader.batches())
    first, second = next(batches), next(batches, None)
    if second is None or second.inputs.shape != first.inputs.shape:
        pairs = [(first.inputs, first.targets), (first.inputs.flip(0), first.targets.flip(0))]
    else:
        pairs = [(first.inputs, first.targets), (second.inputs, second.targets)]
    copies = [copy.deepcopy((run.model, run.optimizer)) for _ in pairs]
    models = [model for model, _ in copies]
    random_state = _random_state(built.device)
    saved: dict[int, int] = {}
    losses: list[Tensor] = []
    gradients: list[Sequence[Tensor]] = []

    def count(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes
        return tensor

    for model, (inputs, targets) in zip(models, pairs, strict=True):
        own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = run.criterion(model(inputs), targets)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, own))
    if not torch.equal(random_state, _random_state(built.device)):
        return "its model draws random numbers while it trains"
    if any(not torch.equal(*pair) for pair in zip(run.model.buffers(), models[0].buffers(), strict=True)):
        return "its model keeps running statistics"

    stack = Stack(models, run.criterion, first.inputs)
    StackedOptimizer(stack, models, [optimizer for _, optimizer in copies])
    inputs, targets = (torch.stack(each) for each in zip(*pairs, strict=True))
    stacked = stack.losses(stack.outputs(inputs), targets)
    found = [stacked, *torch.autograd.grad(stacked.sum(), stack.trained)]
    wanted = [torch.stack(list(each)) for each in (losses, *zip(*gradients, strict=True))]
    if not all(map(_close, found, wanted)):
        return "stacked, its model computes something else"
    state: int = sum(tensor.nbytes for tensor in [*run.model.parameters(), *run.model.buffers()])
    batch: int = first.inputs.nbytes + first.targets.nbytes
    # Weights, gradients and two moments; weights and moments again, to go back to; the tensors that backward
    # keeps, and their gradients.
    return 7 * state + 2 * sum(saved.values()) // len(pairs) + 2 * batch + 1


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Inside, CUDA multiplies in float32: with TF32's 10 bits a stack of convolutions differs in rounding by
    more than the comparison allows."""
    tf32, matmul = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision(matmul)


def _close(one: Tensor, other: Tensor) -> bool:
    scale = float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=_RELATIVE, atol=_ABSOLUTE * scale, equal_nan=True)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _is_by_sample(data: Data, train: Split) -> bool:
    """Whether the transform treats a sample alike in any batch."""
    inputs = train.inputs[:16]
    parts = [data.transform(inputs[:5]), data.transform(inputs[5:])] if len(inputs) > 5 else []
    return not parts or torch.equal(data.transform(inputs), torch.cat(parts))


def free_memory(device: torch.device) -> int:
    """Free bytes on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return 2**31 if (free := available_memory()) is None else free
