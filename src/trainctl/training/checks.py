"""Checks that model, loss and data fit, before the first step."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX

from trainctl.components.tasks._base import task_named, task_of
from trainctl.config.settings import Config
from trainctl.data import Data
from trainctl.data.inputs import sample_shape, shown_shape
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS, TASKS
from trainctl.registry.protocols import Batch, Criterion, Model, named_modules
from trainctl.training.loop import evaluating
from trainctl.training.runtime import random_state_kept
from trainctl.training.warning_signs import squashed_outputs

_STORED = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float8_e4m3fn",
    "float8_e5m2", "float16", "bfloat16", "float32", "float64", "complex64",
)  # fmt: skip

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_fit(config: Config, model: Model, criterion: Criterion, batch: Batch, data: Data) -> list[str]:
    """Run two samples through model and loss; returns warning signs.

    Raises ConfigError with both shapes where they do not fit.

    Without the check a loss of (N,) outputs and (N, 1) targets would broadcast to (N, N) and train on.
    """
    inputs, targets = batch.inputs[:2], batch.targets[:2]
    shape = data.input_shape if isinstance(data.input_shape, dict) else tuple(data.input_shape)
    if sample_shape(inputs) != shape:
        raise ConfigError(
            f"dataset={config.dataset.name} says input_shape {shape}, but gives {sample_shape(inputs)}",
            "give the shape of one sample after the transform",
        )
    try:
        with evaluating(model), torch.no_grad(), _tokens_checked(model):
            outputs = model(inputs)
            if (extreme := _largest_token(inputs, data)) is not None:
                model(extreme)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        remedy = f"dataset={config.dataset.name} gives that shape; choose a model for it"
        if isinstance(inputs, torch.Tensor) and not _is_real(inputs):
            remedy = f"dataset={config.dataset.name} gives tokens: model=embedding_bag for classes of texts"
            remedy += ", transformer or lstm for the next token"
        elif "dtype" in reason:
            remedy = "keep weights in float32; train.precision=bf16 computes in fewer digits"
        raise ConfigError(
            f"model={config.model.name} does not take inputs of shape {shown_shape(shape)}: {reason}", remedy
        ) from error
    _refuse_no_tensor(config, outputs, "")
    _check_target_kind(config, criterion, data, outputs, targets)
    task_of(data).check_loss(config.loss.name, criterion, data)
    if getattr(criterion, "takes_log_probabilities", False):
        _check_log_probabilities(config, outputs)
    given = targets.clone()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            loss = criterion(outputs, given)
    except (RuntimeError, ValueError, IndexError, TypeError, UserWarning) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{_mismatch(config, outputs, targets)}: {reason}") from error
    if given._version:
        raise ConfigError(
            f"loss={config.loss.name} changes its targets in place", "change a copy: targets.clone()"
        )
    if not isinstance(loss, torch.Tensor) or loss.dim() != 0:
        what = f"a value of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else _kind(loss)
        raise ConfigError(
            f"loss={config.loss.name} gives {what}, not a tensor with one number",
            "a loss averages over the batch",
        )
    if isinstance(model, nn.Module):
        return _check_training(config, model, criterion, inputs, targets, outputs.shape)
    return []


@contextmanager
def _tokens_checked(model: Model) -> Iterator[None]:
    """Inside, an embedding raises IndexError for a token that it has no row for.

    On a GPU the lookup itself would end in an assertion there, after which the process can use the device no
    more; on the CPU it names no number.
    """

    def check(embedding: Any, arguments: tuple[Any, ...]) -> None:
        tokens, rows = arguments[0], embedding.num_embeddings
        if isinstance(tokens, torch.Tensor) and not tokens.is_floating_point() and tokens.numel():
            for token in (int(tokens.min()), int(tokens.max())):
                if not 0 <= token < rows:
                    raise IndexError(f"token {token} is outside of its embedding, 0 to {rows - 1}")

    with ExitStack() as hooks:
        for _, each in named_modules(model):
            if isinstance(each, nn.Embedding | nn.EmbeddingBag):
                hooks.callback(each.register_forward_pre_hook(check).remove)
        yield


def _largest_token(inputs: Any, data: Data) -> torch.Tensor | None:
    """The training sample with the largest token, as a batch of one on the device of ``inputs``; None for
    inputs that are no tokens, or are not in memory."""
    whole = getattr(data.train, "inputs", None)
    if not isinstance(inputs, torch.Tensor) or not isinstance(whole, torch.Tensor) or _is_real(inputs):
        return None
    if whole.dtype not in _WHOLE or not whole.numel():
        return None
    row = int(whole.flatten(1).amax(1).argmax()) if whole.dim() > 1 else int(whole.argmax())
    sample: torch.Tensor = data.transform(whole[row : row + 1].to(inputs.device))
    return sample


def _is_real(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _check_training(
    config: Config,
    model: nn.Module,
    criterion: Criterion,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    shape: torch.Size,
) -> list[str]:
    """Warning signs in the outputs.

    Raises ConfigError where the model in training mode gives no tensor of the ``shape`` that it gives in
    evaluation, or a loss without a gradient.
    """
    before, names = [buffer.clone() for buffer in model.buffers()], set(model.state_dict())
    mode = model.training
    try:
        with random_state_kept(inputs.device):
            model.train()
            outputs = model(inputs.clone())
            if added := set(model.state_dict()) ^ names:
                raise ConfigError(
                    f"model={config.model.name} changes its parameters in training mode: {min(added)}",
                    "make all of them in __init__: what comes later is neither trained nor loaded",
                )
            _refuse_no_tensor(config, outputs, " in training mode")
            if outputs.shape != shape:
                given, wanted = (_listed(tuple(each[1:])) for each in (outputs.shape, shape))
                raise ConfigError(
                    f"model={config.model.name} gives (N, {given}) in training mode, else (N, {wanted})",
                    "both must be the same: what is trained is what is evaluated",
                )
            loss = criterion(outputs, targets)
    except (RuntimeError, ValueError):
        return []  # two samples may be too few for a layer that normalizes; the first step says what is wrong
    finally:
        model.train(mode)
        for buffer, value in zip(model.buffers(), before, strict=False):
            buffer.data.copy_(value)
    # The tutorials' loops compute gradients themselves, or update tensors that need none.
    if config.loop.name == "optimizer" and not loss.requires_grad:
        raise ConfigError(
            f"model={config.model.name}: the loss depends on no parameter that trains",
            "a detach(), an argmax or no_grad() in the model stops the gradient",
        )
    return [*squashed_outputs(criterion, outputs)]


def _refuse_no_tensor(config: Config, outputs: Any, when: str) -> None:
    if not isinstance(outputs, torch.Tensor):
        raise ConfigError(f"model={config.model.name} returns {_kind(outputs)}{when}, not one tensor")


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def check_state(config: Config, model: Model) -> None:
    """Raise ConfigError for a state that no checkpoint can hold: what safetensors has no type for."""
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"model={config.model.name}: its state {name} is {type(value).__name__}, not a tensor",
                "keep it in a buffer instead of get_extra_state: checkpoints hold tensors only",
            )
        plain = value.layout == torch.strided and not (value.is_meta or value.is_nested)
        if not plain or _type(value) not in _STORED:
            kind = _type(value) if plain else f"a {value.layout} tensor on {value.device}"
            raise ConfigError(
                f"model={config.model.name}: {name} is {kind}, which a checkpoint cannot hold",
                "complex64 can be stored, and a real and an imaginary part" if value.is_complex() else "",
            )

    if any(name.endswith(_EXTRA_STATE_KEY_SUFFIX) for name in state):
        reason = "has a get_extra_state, and no set_extra_state that takes it back"
    elif isinstance(model, nn.Module) and set(state) - _names(model):
        reason = "does not take its own state back"
    else:
        return
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"model={config.model.name} {reason}", "keep it in a buffer") from error


def _names(model: nn.Module) -> set[str]:
    """The names of all parameters and buffers."""
    named = (model.named_parameters, model.named_buffers)
    return {name for each in named for name, _ in each(remove_duplicate=False)}


def check_batch_of_one(
    config: Config, model: Model, inputs: torch.Tensor, samples: int, devices: int = 1
) -> None:
    """Raise ConfigError where batch normalization would get a batch of one sample, which has no variance.

    Without the check the run would fail at the smaller batch that ends its first epoch.
    """
    size = config.train.batch_size
    left = samples % size or size
    if not _normalizes_batches(model) or min(size, left) // devices > 1:
        return
    try:
        with random_state_kept(inputs.device), torch.no_grad():
            copy.deepcopy(model).train()(inputs[:1])
    except ValueError as error:
        rest = f"batches of {size} leave 1 of {samples} samples for the last"
        which = f"batches of {size}" if size // devices <= 1 else rest
        which += f" on {devices} devices" if devices > 1 else ""
        raise ConfigError(
            f"train.batch_size={size}: {which}, and batch normalization cannot learn from one",
            f"use batch_size={size + 1}, or another normalization",
        ) from error


def _normalizes_batches(model: Model) -> bool:
    return any(isinstance(each, nn.modules.batchnorm._BatchNorm) for _, each in named_modules(model))


def refuse_pieces(config: Config, model: Model) -> None:
    """Raise ConfigError where a batch in pieces would not give the step of the whole batch."""
    asked = f"train.micro_batch={config.train.micro_batch}"
    if config.loop.name != "optimizer":
        raise ConfigError(
            f"{asked} requires loop=optimizer: loop={config.loop.name} computes whole batches",
            "use train.micro_batch=null, or loop=optimizer",
        )
    if _normalizes_batches(model):
        raise ConfigError(
            f"{asked}: batch normalization would normalize each piece by itself, so the steps of"
            f" model={config.model.name} would not be those of whole batches",
            "use another normalization; or, to take such steps, train.accumulate with a smaller batch_size",
        )


def _check_target_kind(config: Config, criterion: Criterion, data: Data, outputs: Any, targets: Any) -> None:
    kind, task = getattr(criterion, "target", None), task_of(data)
    fitting = [name for name in TASKS.names() if kind in task_named(name).loss_targets]
    if fitting and task.name not in fitting and config.loss.name != task.loss:
        arguments = {each.name: each for each in DATASETS.signature(config.dataset.name).parameters}
        choices = get_args(arguments["task"].annotation) if "task" in arguments else ()
        other = next((f", or dataset.task={name}" for name in fitting if name in choices), "")
        raise ConfigError(
            _mismatch(config, outputs, targets),
            f"the targets are {task.targets}: use loss={task.loss}{other}",
        )
    if kind == "class":
        # Shares of the classes, as mixed samples have, are no more targets than one.
        each = () if targets.is_floating_point() else tuple(targets.shape[1:])
        wanted = (data.output_size, *each)
        fits = tuple(outputs.shape[1:]) == wanted
    else:  # targets with the shape of the outputs, or a loss that does not say
        wanted, fits = tuple(targets.shape[1:]), kind is None or outputs.shape == targets.shape
    if not fits:
        raise ConfigError(
            _mismatch(config, outputs, targets),
            f"model={config.model.name} must give outputs of shape (N, {_listed(wanted)})",
        )
    _check_values(config, kind, data, getattr(criterion, "log_target", False))


def _check_values(config: Config, kind: str | None, data: Data, logarithms: bool) -> None:
    """Check all training targets for a loss that takes only some values."""
    values, remedy = data.train.targets, "use loss=mse for values of any size"
    if kind == "binary" and (float(values.min()) < 0 or float(values.max()) > 1):
        needed = "targets from 0 to 1"
    elif kind == "sign" and not bool((values.abs() == 1).all()):
        needed, remedy = "targets that are 1 or -1", "use loss=bce_with_logits for targets 0 and 1"
    elif kind == "labels" and values.is_floating_point():
        needed = "class numbers padded with -1 (int64)"
        remedy = "use loss=multi_label_soft_margin for 0 and 1"
    elif kind == "counts" and float(values.min()) < 0:
        needed = "counts, none below 0"
    elif kind == "shares" and not _are_shares(values.exp() if logarithms else values):
        needed = "the probabilities of each sample, from 0 and 1 in all"
        needed = f"the logarithms of {needed}" if logarithms else needed
    else:
        return
    found = f"found {float(values.min()):g} to {float(values.max()):g} {_type(values)}"
    raise ConfigError(f"loss={config.loss.name} needs {needed}; {found}", remedy)


def _are_shares(values: torch.Tensor) -> bool:
    sums = values.double().sum(1) if values.dim() > 1 else values.double()
    return bool((values >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())


def _check_log_probabilities(config: Config, outputs: torch.Tensor) -> None:
    """Without the check the loss of any other outputs would fall for ever, and mean nothing."""
    sums = outputs.float().exp().sum(1)
    if not bool(((sums - 1).abs() < 1e-2).all()):
        raise ConfigError(
            f"loss={config.loss.name} needs log-probabilities; the exponentials of the model's outputs add up"
            f" to {float(sums.flatten()[0]):.3g}, not to 1",
            "use loss=cross_entropy, or end the model in LogSoftmax",
        )


def _mismatch(config: Config, outputs: Any, targets: Any) -> str:
    shapes = [f"(N, {_listed(tuple(each.shape[1:]))}) {_type(each)}" for each in (outputs, targets)]
    both = " and targets of shape ".join(shapes).replace("(N, )", "(N,)")
    return f"loss={config.loss.name} does not fit outputs of shape {both}"


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
