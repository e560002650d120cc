"""Signs that a run will not learn what its user wants, each said in one line. A doubtful sign is not said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.components.losses._torch_classes import read_out_by_torch
from trainctl.components.tasks._base import class_names, task_of
from trainctl.data.inputs import parts_of
from trainctl.data.types import Data, is_sampled
from trainctl.registry.protocols import Criterion
from trainctl.training.prepare_data import class_counts

_SHOWN = 3
_TRAIN_ROWS, _LOOKED_AT, _COLUMNS = 100_000, 1_000, 32
_FEWEST, _SHARE = 5, 0.01
_VIEWS = ("View", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Permute", "T")
_ENDINGS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}


def signs_in(data: Data) -> Iterator[str]:
    """What is odd about the samples and the targets of a run."""
    yield from data.warnings
    yield from _absent_classes(data)
    yield from _not_finite(data)
    yield from _shared_samples(data)


def squashed_outputs(criterion: Criterion, outputs: Tensor) -> Iterator[str]:
    """Where the last layer is a softmax or a sigmoid, which the loss computes itself: gradients vanish."""
    logits = "logit" in (getattr(criterion, "output", None), read_out_by_torch(criterion))
    if not logits and not isinstance(criterion, nn.CrossEntropyLoss):
        return
    node: Any = outputs.grad_fn
    while node is not None and node.name().startswith(_VIEWS) and node.next_functions:
        node = node.next_functions[0][0]
    operation = "" if node is None else node.name().partition("Backward")[0]
    if operation in _ENDINGS:
        yield (
            f"the model ends in a {_ENDINGS[operation]}, and {type(criterion).__name__} applies its own to"
            " the outputs: it learns slowly or not at all; leave the last one out"
        )


def no_better_than_a_guess(data: Data, values: Mapping[str, Any]) -> str | None:
    """A line where the accuracy in ``values`` is that of the most frequent class at best; else None."""
    name = next((name for name in ("test", "val") if f"{name}/accuracy" in values), "")
    counts, split = class_counts(data), data.splits.get(name)
    if split is None or counts is None or is_sampled(split) or not task_of(data).class_numbers:
        return None
    most = int(counts.argmax())
    share, reached = float((split.targets == most).double().mean()), values[f"{name}/accuracy"]
    if share == 1 or reached > share:
        return None
    guess = f"always saying {class_names(data)[most]!r} has {share:.4f}"
    return f"{name}/accuracy {reached:.4f} is not better than a guess: {guess}"


def _absent_classes(data: Data) -> Iterator[str]:
    counts = class_counts(data) if task_of(data).class_numbers else None
    if counts is None:
        return
    pairs = zip(class_names(data), counts.tolist(), strict=True)
    names = [repr(name) for name, count in pairs if not count]
    if len(names) == len(counts) - 1 and len(counts) > 1:
        only = class_names(data)[int(counts.argmax())]
        yield f"all training samples are of class {only!r}: there is nothing to tell apart"
    elif names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"classes without a training sample: {', '.join(names[:_SHOWN])}{more}"


def _not_finite(data: Data) -> Iterator[str]:
    """NaN and infinity that the transform does not replace; in a table NaN is a missing cell."""
    if data.reading.get("kind") == "table":
        return
    for name, split in data.splits.items():
        inputs = getattr(split, "inputs", None)
        for part in () if inputs is None else parts_of(inputs):
            # A sum is quick, and not finite where a value is not.
            if not part.is_floating_point() or bool(part.sum().isfinite()):
                continue
            bad = (~part.isfinite()).nonzero()
            if not len(bad) or _finite_after(data, inputs, int(bad[0][0])):
                continue
            row, *place = bad[0].tolist()
            where = f" at {', '.join(str(each + 1) for each in place)}" if place else ""
            yield (
                f"{name} input {row + 1}{where} is {float(part[(row, *place)]):g} (such samples:"
                f" {len(torch.unique(bad[:, 0]))}): no loss of such a batch is finite"
            )


def _finite_after(data: Data, inputs: Any, row: int) -> bool:
    device = next(iter(data.transform.buffers()), torch.empty(0)).device
    made = data.transform(inputs[row : row + 1].to(device))
    return all(bool(part.isfinite().all()) for part in parts_of(made))


def _shared_samples(data: Data) -> Iterator[str]:
    """Samples that are also training samples, where the training split has far fewer copies of its own: a
    table of few columns may hold equal rows by nature, pictures do not."""
    parts = {name: getattr(split, "inputs", None) for name, split in data.splits.items()}
    train = parts.pop("train")
    if not isinstance(train, Tensor) or train.dim() < 2:
        return
    known = _spread(train, _TRAIN_ROWS)
    keys, order = _keys(known).sort()
    own = _repeated(keys) if train.dim() == 2 else 0.0
    for name, inputs in parts.items():
        if not isinstance(inputs, Tensor) or inputs.shape[1:] != train.shape[1:]:
            continue
        some = _spread(inputs, _LOOKED_AT)
        found = int(_copies(known, keys, order, some).sum())
        if found >= _FEWEST and found / len(some) > 2 * own + _SHARE:
            sampled = "" if len(some) == len(inputs) else " that were looked at"
            yield (
                f"{found} of the {len(some)} {name} samples{sampled} are training samples, too: {name} values"
                " say little about other data"
            )


def _spread(inputs: Tensor, most: int) -> Tensor:
    """At most so many samples, evenly spaced, as rows."""
    count = min(len(inputs), most)
    rows = torch.arange(count, device=inputs.device) * len(inputs) // count
    return (inputs if count == len(inputs) else inputs[rows]).flatten(1)


def _keys(rows: Tensor) -> Tensor:
    """A number for each row, (N,) int64, the same for equal ones: of the columns in the middle."""
    first = max(0, (rows.shape[1] - _COLUMNS) // 2)
    found = _bytes(rows[:, first : first + _COLUMNS])
    words = nn.functional.pad(found, (0, -found.shape[1] % 8)).view(torch.int64)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (words.shape[1],), generator=generator)
    return (words * (2 * weights + 1).to(words.device)).sum(1)


def _bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


def _copies(known: Tensor, keys: Tensor, order: Tensor, rows: Tensor) -> Tensor:
    """Which rows are equal to one of ``known``, whose sorted ``keys`` come in this ``order``; (N,) bool.

    A row of one value, such as an empty picture, is none."""
    places = torch.searchsorted(keys, _keys(rows)).clamp(max=len(keys) - 1)
    equal = (_bytes(known[order[places]]) == _bytes(rows)).all(1)
    return equal & (rows != rows[:, :1]).any(1)


def _repeated(keys: Tensor) -> float:
    """The share of the sorted ``keys`` that occur more than once."""
    same = keys[1:] == keys[:-1]
    nothing = torch.zeros(1, dtype=torch.bool, device=keys.device)
    return float((torch.cat([same, nothing]) | torch.cat([nothing, same])).double().mean())
