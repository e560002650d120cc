"""Run a bad step again, up to the optimizer's update, and say where its first bad value is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from trainctl.analysis.anomalies import Call, Watch, forward_line
from trainctl.analysis.values import values_of
from trainctl.checkpoint import snapshot
from trainctl.checkpoint.bad_step import Capsule
from trainctl.components.losses.auto import loss_name
from trainctl.config.settings import Config
from trainctl.data.inputs import made_shape, parts_of
from trainctl.errors import CheckpointError, ConfigError
from trainctl.training import parameters, runtime
from trainctl.training.construct import build_model, construct
from trainctl.training.steps.choose import unguarded_step

_ROWS_AROUND = 4
_MAX_THREADS = 1024
_HAZARDS = {
    "sqrt rsqrt norm linalgvectornorm cdist std": "the root of 0 has an infinite derivative, of less is NaN",
    "log log2 log10 log1p": "the logarithm of 0 is infinite, that of a negative number is NaN",
    "div reciprocal": "a division by 0, or by something very small",
    "pow": "powers of 0 and of negative numbers may be infinite or NaN, and so may their derivatives",
    "acos asin atanh erfinv": "at the end of its domain it or its derivative is infinite",
    "exp exp2 expm1 cosh sinh": "exponentials of arguments above 88 overflow in float32",
}


class Place(NamedTuple):
    """Where the first bad value is.

    ``kind`` is inputs, targets, parameters, forward, loss or backward. ``call`` shows the value first; a sum
    over micro-batches has none. ``node`` is that of the operation, in the forward pass of the likely one.
    """

    kind: str
    text: str
    call: Call | None = None
    node: Any = None


@dataclass(frozen=True)
class Replay:
    """A step that was run again.

    ``why`` is what was bad in training. ``place`` is None where all values are finite this time. ``rows`` are
    the calls around it; in a backward pass in its order, for their gradients.
    """

    step: int
    why: str
    settings: tuple[tuple[str, str], ...]
    loss: float
    place: Place | None
    line: str = ""
    likely: str = ""
    rows: Sequence[Call] = ()


def choose_device(capsule: Capsule, asked: str | None) -> torch.device:
    """The device asked for, else the kind the step ran on, or the CPU where that is not available."""
    try:
        return runtime.choose_device(asked or capsule.device)
    except (ConfigError, RuntimeError) as error:
        if asked is None:
            return torch.device("cpu")
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--device {asked}: no such device", "auto, cpu, cuda, cuda:1, mps") from error


def replay(capsule: Capsule, config: Config, device: torch.device) -> Replay:
    """Run the capsule's step on ``device`` and find the first bad value.

    Raises CheckpointError where the capsule does not fit its config, ConfigError for what cannot be built.
    """
    runtime.set_deterministic(config.deterministic)
    torch.set_float32_matmul_precision(config.train.matmul)
    if device.type == "cpu":
        torch.set_num_threads(min(max(1, capsule.threads), _MAX_THREADS))
    shape = made_shape(capsule.input_shape)
    model = build_model(config.model, shape, capsule.output_size, pretrained=False).to(device)
    counts = None if capsule.class_counts is None else torch.tensor(capsule.class_counts)
    criterion = construct(config.loss, class_counts=counts, task=capsule.task).to(device)
    optimizer = construct(config.optim, parameters=parameters.groups(config, model))
    step = unguarded_step(config, construct(config.loop, config=config)).take
    precision = runtime.precision_context(config.train.precision, device)
    lr = _restore(capsule, model, optimizer, device)
    model.train()

    inputs, targets = capsule.inputs.to(device), capsule.targets.to(device)
    data = Call("inputs", "", values_of(parts_of(inputs))), Call("targets", "", values_of(targets))
    watch = Watch(model, criterion)
    with watch.attached(optimizer):
        step(model, criterion, optimizer, inputs, targets, precision)
    place = _find(watch, *data)
    shapes = [str(tuple(each.shape)) for each in parts_of(inputs)]
    whole = config.train.accumulate == 1 and config.train.micro_batch is None
    of_several = "" if whole else f", batch {watch.batch} of the step's"
    is_same = device.type == capsule.device
    differs = f", not {capsule.device} as in training: dropout masks and other random numbers differ"
    settings = (
        ("loss", f"{watch.loss:.7g}{of_several}"),
        ("learning rate", f"{lr:g}"),
        ("batch", f"inputs {' '.join(shapes)}, targets {tuple(targets.shape)}"),
        (
            "training",
            f"{config.model.name}, {loss_name(config.loss.name, capsule.task)}, {config.optim.name}",
        ),
        ("precision", config.train.precision),
        ("device", f"{device}{'' if is_same else differs}"),
    )
    if place is None:
        return Replay(capsule.step, capsule.why, settings, watch.loss, None)
    line = "" if place.node is None else forward_line(place.node)
    likely, rows = _remedy(place, config, lr), _rows(watch, place, *data)
    return Replay(capsule.step, capsule.why, settings, watch.loss, place, line, likely, rows)


def _restore(capsule: Capsule, model: Any, optimizer: Any, device: torch.device) -> float:
    """Give everything its state; returns the learning rate."""
    state, tensors = capsule.content.state, capsule.content.training
    try:
        model.load_state_dict(capsule.content.model)
        optimizer.load_state_dict(snapshot.unpack(state["parts"]["optimizer"], tensors))
        states = snapshot.unpack(state["parts"]["random"], tensors)
        snapshot.RandomStates(torch.device("cpu")).load_state_dict(states)
        if device.type == "cuda" == capsule.device:
            torch.cuda.set_rng_state(capsule.random_state, device)
        elif device.type == capsule.device:
            (torch.mps if device.type == "mps" else torch).set_rng_state(capsule.random_state)
        return float(optimizer.param_groups[0]["lr"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the capsule does not fit its config: {reason}") from error


def _find(watch: Watch, inputs: Call, targets: Call) -> Place | None:
    """The first place in the order of the step, or None where all values are finite."""
    if not math.isfinite(watch.loss):
        return _find_forward(watch, inputs, targets)
    if not watch.bad_gradients:
        return None
    reached = _listed(watch.bad_gradients)
    if watch.bad_node is None:
        return Place(
            "backward", f"in the gradient of {reached}: that of each batch is finite, their sum is not"
        )
    node, call, received_finite = watch.bad_node
    cause = (
        "turns a finite gradient into a bad one" if received_finite else "sums finite gradients to a bad one"
    )
    text = f"in the backward pass, in {call}: {node.name()} {cause}"
    return Place("backward", f"{text}; it reaches the gradient of {reached}", call, node)


def _find_forward(watch: Watch, inputs: Call, targets: Call) -> Place:
    model = [call for call in watch.calls if not call.is_loss][-1]
    is_loss = not _is_bad(model)
    data = targets if is_loss else inputs
    if _is_bad(data):
        return Place(data.name, f"in the {data.name}: {data.outputs.bad_text()}", data)
    bad = [call for call in watch.calls if call.is_loss == is_loss and _is_bad(call)]
    # A module that overwrites its inputs has bad ones afterwards.
    call = next((each for each in bad if each.makes_bad), bad[0])
    if watch.bad_parameters and not is_loss:
        text = f"in the parameters, before the step: {_listed(watch.bad_parameters)}"
        return Place("parameters", text, call)
    text = f"in the output of {call}, in the {'loss function' if is_loss else 'forward pass'}"
    node = next((each for each in call.nodes if _hazard(each)), next(iter(call.nodes), None))
    return Place("loss" if is_loss else "forward", f"{text}: {call.outputs.bad_text()}", call, node)


def _is_bad(call: Call) -> bool:
    return call.outputs.not_finite > 0


def _listed(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _hazard(node: Any) -> str:
    """What can go wrong in the operation of a node, such as SqrtBackward0."""
    operation = re.sub(r"backward\d*$", "", node.name().lower())
    return next((hazard for names, hazard in _HAZARDS.items() if operation in names.split()), "")


def _remedy(place: Place, config: Config, lr: float) -> str:
    smaller = f"try a smaller learning rate, e.g. lr={lr / 10:g}, or train.clip_norm=1.0"
    hazard = "" if place.node is None else _hazard(place.node)
    if place.kind in ("inputs", "targets"):
        return "bad data: repair or remove these samples, or skip such steps with guard.skip=N"
    if place.kind == "parameters":
        return f"an update before this step has overflowed: {smaller}"
    if hazard:
        return f"{hazard}: keep its argument away from there, e.g. with clamp"
    if place.kind == "loss":
        return "outputs and targets are finite: look for extreme outputs and targets outside the loss's range"
    if place.kind == "backward":
        return f"an infinite or undefined derivative, or gradients that have grown too large: {smaller}"
    precision = "" if config.train.precision == "fp32" else ", or train.precision=fp32"
    return f"values have grown until they overflowed: {smaller}{precision}"


def _rows(watch: Watch, place: Place, inputs: Call, targets: Call) -> Sequence[Call]:
    leaves = [call for call in watch.calls if call is place.call or _is_leaf(call, watch.calls)]
    if place.kind == "backward":
        rows = [call for call in reversed(leaves) if call.gradient.size]
    else:
        layers, loss = ([call for call in leaves if call.is_loss == is_loss] for is_loss in (False, True))
        rows = [inputs, *layers, targets, *loss]
    here = rows.index(place.call) if place.call in rows else 0
    return rows[max(0, here - _ROWS_AROUND) : here + _ROWS_AROUND + 1]


def _is_leaf(call: Call, calls: Sequence[Call]) -> bool:
    """Whether no module ran inside; a child whose weights alone are used, as in attention, did not run."""
    prefix = "" if call.name == "model" else f"{call.name}."
    others = (each for each in calls if each is not call and each.is_loss == call.is_loss)
    return not any(each.name.startswith(prefix) for each in others)
