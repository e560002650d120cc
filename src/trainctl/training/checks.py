"""Do model, loss and data fit? Asked before the first step, answered with both shapes."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn

from trainctl.config.settings import Config
from trainctl.data import Data
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS
from trainctl.registry.protocols import Batch, Criterion, Model, named_modules
from trainctl.training.runtime import random_state_kept


def check_fit(config: Config, model: Model, criterion: Criterion, batch: Batch, data: Data) -> None:
    """Run two samples through model and loss, and refuse what does not fit with both shapes named.

    Without the check a loss of (N,) outputs against (N, 1) targets broadcasts to (N, N) and trains on.
    """
    inputs, targets = batch.inputs[:2], batch.targets[:2]
    shape = tuple(data.input_shape)
    if tuple(inputs.shape[1:]) != shape:
        raise ConfigError(
            f"dataset={config.dataset.name} says input_shape {shape}, but gives {tuple(inputs.shape[1:])}",
            "the shape is that of one sample after the transform",
        )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"model={config.model.name} does not take inputs of shape (N, {_listed(shape)}): {reason}",
            f"dataset={config.dataset.name} gives that shape; choose a model for it",
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(outputs, torch.Tensor):
        raise ConfigError(f"model={config.model.name} returns {type(outputs).__name__}, not one tensor")
    kind = getattr(criterion, "target", None)
    _check_target_kind(config, kind, data, outputs, targets)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            loss = criterion(outputs, targets)
    except (RuntimeError, ValueError, IndexError, TypeError, UserWarning) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{_mismatch(config, outputs, targets)}: {reason}") from error
    if loss.dim() != 0:
        raise ConfigError(
            f"loss={config.loss.name} gives a value of shape {tuple(loss.shape)}, not one number",
            "a loss averages over the batch",
        )


def check_batch_of_one(config: Config, model: Model, inputs: torch.Tensor, samples: int) -> None:
    """Refuse batch normalization that will meet a batch of one sample, which has no variance.

    Without the check the run would fail at the end of its first epoch, where the smaller batch comes.
    """
    size = config.train.batch_size
    left = samples % size
    normalizes = any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for _, module in named_modules(model)
    )
    if not normalizes or (size > 1 and left != 1):
        return
    try:
        with random_state_kept(inputs.device), torch.no_grad():
            copy.deepcopy(model).train()(inputs[:1])
    except ValueError as error:
        which = (
            "batches of 1" if size == 1 else f"batches of {size} leave 1 of {samples} samples for the last"
        )
        raise ConfigError(
            f"train.batch_size={size}: {which}, and batch normalization cannot learn from one",
            f"use batch_size={size + 1}, or another normalization",
        ) from error


# What the targets of a loss are, and the loss to use where they are not.
_OF_CLASSES = ("class",)
_OF_VALUES = ("value", "binary", "sign", "labels")


def _or_task(config: Config, task: str) -> str:
    """What else to type, where the dataset reads its targets as it is told."""
    told = "task" in DATASETS.signature(config.dataset.name).names
    return f", or say dataset.task={task}" if told else ""


def _check_target_kind(config: Config, kind: str | None, data: Data, outputs: Any, targets: Any) -> None:
    if kind in _OF_CLASSES and data.task != "classification":
        raise ConfigError(
            _mismatch(config, outputs, targets),
            f"the targets are values: use loss=mse{_or_task(config, 'classification')}",
        )
    if kind in _OF_VALUES and data.task == "classification":
        raise ConfigError(
            _mismatch(config, outputs, targets),
            f"the targets are class numbers: use loss=cross_entropy{_or_task(config, 'regression')}",
        )
    if kind in _OF_CLASSES and not (outputs.dim() >= 2 and outputs.shape[1] == data.output_size):
        raise ConfigError(
            _mismatch(config, outputs, targets),
            f"model={config.model.name} must give outputs of shape (N, {data.output_size})",
        )
    if kind in _OF_VALUES and outputs.shape != targets.shape:
        raise ConfigError(
            _mismatch(config, outputs, targets),
            f"model={config.model.name} must give outputs of shape (N, {_listed(tuple(targets.shape[1:]))})",
        )
    _check_values(config, kind, data)


def _check_values(config: Config, kind: str | None, data: Data) -> None:
    """The losses that take only some values: looked for in all training targets."""
    values = data.train.targets
    if kind == "binary" and (float(values.min()) < 0 or float(values.max()) > 1):
        needed, remedy = "targets from 0 to 1", "use loss=mse for values of any size"
    elif kind == "sign" and not bool((values.abs() == 1).all()):
        needed, remedy = "targets that are 1 or -1", "use loss=bce_with_logits for targets 0 and 1"
    elif kind == "labels" and values.is_floating_point():
        needed, remedy = (
            "class numbers padded with -1 (int64)",
            "use loss=multi_label_soft_margin for 0 and 1",
        )
    else:
        return
    found = f"found {float(values.min()):g} to {float(values.max()):g} {_type(values)}"
    raise ConfigError(f"loss={config.loss.name} needs {needed}; {found}", remedy)


def _mismatch(config: Config, outputs: Any, targets: Any) -> str:
    return (
        f"loss={config.loss.name} does not fit outputs of shape (N{_rest(outputs)}) {_type(outputs)}"
        f" and targets of shape (N{_rest(targets)}) {_type(targets)}"
    )


def _rest(tensor: torch.Tensor) -> str:
    shape = tuple(tensor.shape[1:])
    return f", {_listed(shape)}" if shape else ","


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
