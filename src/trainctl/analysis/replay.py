"""A bad step once more: the loop's own, up to the optimizer's, and what there is to say about it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainctl.analysis.anomalies import Place, SteppingError, Values, Watch, find, values_of
from trainctl.checkpoint import snapshot
from trainctl.checkpoint.bad_step import Capsule
from trainctl.config.settings import Config
from trainctl.errors import CheckpointError, ConfigError
from trainctl.training import parameters, runtime
from trainctl.training.construct import build_model, construct

_AROUND = 4
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: of the layer, or ``inputs``, ``loss``.
        kind: its class.
        values: what it gave, or the gradient of that; None where it gave no tensor.
        is_place: whether it is here.
    """

    name: str
    kind: str
    values: Values | None
    is_place: bool


@dataclass(frozen=True)
class Replay:
    """A step that was run again.

    Attributes:
        step: its number.
        why: what had been found when it was trained.
        settings: a label and a text each: loss, learning rate, batch, device.
        where: where the first value appears that is not finite, a clause; None where all are finite.
        line: the line of the forward pass that asked for it; "" where it is torch's own.
        likely: what to do about it, a sentence.
        backward: whether it is in the backward pass: the rows have gradients, in the order of that pass.
        rows: the layers around the place, in the order of execution.
        loss: of the batch: of several, of the first that is bad, or of the last.
    """

    step: int
    why: str
    settings: tuple[tuple[str, str], ...]
    where: str | None
    line: str
    likely: str
    backward: bool
    rows: tuple[Row, ...]
    loss: float


def choose_device(capsule: Capsule, asked: str | None) -> torch.device:
    """The device asked for; without a word the kind that the step ran on, or the CPU where it is not there.

    Raises ConfigError for one that is asked for and not there.
    """
    if asked is not None:
        try:
            return runtime.choose_device(asked)
        except RuntimeError as error:
            raise ConfigError(f"--device {asked}: no such device", "auto, cpu, cuda, cuda:1, mps") from error
    try:
        return runtime.choose_device(capsule.device)
    except (ConfigError, RuntimeError):
        return torch.device("cpu")


def replay(capsule: Capsule, config: Config, device: torch.device) -> Replay:
    """Run the capsule's step on ``device`` and find where the first value appears that is not finite.

    Raises CheckpointError where the capsule does not fit its config, ConfigError where a part of it cannot be
    built.
    """
    runtime.set_deterministic(config.deterministic)
    runtime.set_matmul_precision(config.train.matmul)
    if device.type == "cpu":
        torch.set_num_threads(min(max(1, capsule.threads), _MOST_THREADS))
    model = build_model(config.model, capsule.input_shape, capsule.output_size).to(device)
    counts = None if capsule.class_counts is None else torch.tensor(capsule.class_counts)
    criterion = construct(config.loss, class_counts=counts).to(device)
    optimizer = construct(config.optim, parameters=parameters.groups(config, model))
    loop = construct(config.loop, config=config)
    precision = runtime.precision_context(config.train.precision, device)
    _restore(capsule, model, optimizer, device)
    model.train()

    inputs, targets = capsule.inputs.to(device), capsule.targets.to(device)
    watch = Watch(model, criterion)
    with contextlib.suppress(SteppingError), watch.attached(optimizer):
        loop.step(model, criterion, optimizer, inputs, targets, precision)
    lr = float(optimizer.param_groups[0]["lr"])
    place = find(watch, inputs, targets)
    of_several = f", batch {watch.batch} of the step's" if config.train.accumulate > 1 else ""
    settings = [
        ("loss", f"{watch.loss:.7g}{of_several}"),
        ("learning rate", f"{lr:g}"),
        ("batch", f"inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)}"),
        ("training", f"{config.model.name}, {config.loss.name}, {config.optim.name}"),
        ("device", _device_said(capsule, device)),
    ]
    if config.train.precision != "fp32":
        settings.append(("precision", config.train.precision))
    return Replay(
        step=capsule.step,
        why=capsule.why,
        settings=tuple(settings),
        where=None if place is None else place.said,
        line="" if place is None else place.line,
        likely="" if place is None else _remedy(place, config, lr),
        backward=place is not None and place.kind == "backward",
        rows=() if place is None else tuple(_rows(watch, place, inputs, targets)),
        loss=watch.loss,
    )


def _restore(capsule: Capsule, model: Any, optimizer: Any, device: torch.device) -> None:
    state, tensors = capsule.content.state, capsule.content.training
    try:
        model.load_state_dict(capsule.content.model)
        optimizer.load_state_dict(snapshot.unpack(state["parts"]["optimizer"], tensors))
        states = snapshot.unpack(state["parts"]["random"], tensors)
        snapshot.RandomStates(torch.device("cpu")).load_state_dict(states)
        if device.type == capsule.device:
            _set_random_state(capsule.random_state, device)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the capsule does not fit its config: {reason}") from error


def _device_said(capsule: Capsule, device: torch.device) -> str:
    if device.type == capsule.device:
        return str(device)
    return f"{device}, not {capsule.device} as in training: random numbers such as dropout masks are others"


def _set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)


_HAZARDS = {
    ("sqrt", "rsqrt", "norm", "vector_norm", "linalgvectornorm", "cdist", "std"): (
        "the root of 0 has an infinite derivative, that of a negative number is NaN"
    ),
    ("log", "log2", "log10", "log1p"): "the logarithm of 0 is infinite, that of a negative number is NaN",
    ("div", "truediv", "true_divide", "reciprocal"): "a division by 0, or by something very small",
    ("pow",): "powers of 0 and of negative numbers may be infinite or NaN, and so may their derivatives",
    ("acos", "asin", "atanh", "erfinv"): "at the end of its domain it or its derivative is infinite",
    ("exp", "exp2", "expm1", "cosh", "sinh"): "exponentials of arguments above 88 overflow in float32",
}


def _remedy(place: Place, config: Config, lr: float) -> str:
    """What is likely, a sentence."""
    smaller = f"try a smaller learning rate, e.g. lr={lr / 10:g}, or train.clip_norm=1.0"
    if place.kind in ("inputs", "targets"):
        return "the data is not finite: repair or remove these samples, or leave such steps out: guard.skip=N"
    if place.kind == "parameters":
        return f"an update before this step has overflowed: {smaller}"
    operation = re.sub(r"backward\d*$", "", place.operation.lower())
    for names, hazard in _HAZARDS.items():
        if operation in names:
            return f"{hazard}: keep its argument away from there, e.g. with clamp"
    if place.kind == "loss":
        return "outputs and targets are finite: look at extreme outputs, and targets outside the loss's range"
    if place.kind == "backward":
        return f"a derivative is infinite or undefined there, or gradients have grown too large: {smaller}"
    if config.train.precision != "fp32":
        return f"values have outgrown the format: {smaller}, or train.precision=fp32"
    return f"values have grown until they overflowed: {smaller}"


def _rows(watch: Watch, place: Place, inputs: Tensor, targets: Tensor) -> Iterator[Row]:
    batch = watch.batch if place.call is None else place.call.batch
    calls = [call for call in watch.calls if call.batch == batch and (call.is_leaf or call is place.call)]
    if place.kind == "backward":
        rows = [
            Row(call.name, call.kind, call.gradient, call is place.call)
            for call in reversed(calls)
            if call.gradient is not None
        ]
    else:
        first = watch.first[0] if watch.first is not None and place.kind == "parameters" else place.call
        rows = [Row("inputs", "", values_of([inputs]), place.kind == "inputs")]
        for call in calls:
            if call.is_loss and place.kind == "targets" and all(row.name != "targets" for row in rows):
                rows.append(Row("targets", "", values_of([targets]), True))
            rows.append(Row(call.name, call.kind, call.outputs, call is first))
    here = next((number for number, row in enumerate(rows) if row.is_place), 0)
    yield from rows[max(0, here - _AROUND) : here + _AROUND + 1]
