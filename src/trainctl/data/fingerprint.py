"""What tells the data of a run from other data: digests of each split, its columns and its classes.

A checkpoint holds them, so that a run goes on with the data it was trained on, or says what differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from trainctl.data.inputs import parts_of
from trainctl.data.order import epoch_order
from trainctl.data.types import AnySplit, Data, Split, StreamSplit, is_sampled
from trainctl.errors import CheckpointError

_MOST_BYTES = 2**26
"""Of a larger tensor evenly spaced samples of this size in all are hashed: at most 0.1 s."""
_LOADED = 16
"""Samples that are hashed of those which are loaded one by one."""
_SHOWN = 12
_DIGEST = 64  # hexadecimal digits of SHA-256
_FIRST = 2**20
_SPLITS = ("train", "val", "test")


def fingerprint(data: Data) -> dict[str, dict[str, Any]]:
    """Each split's number of samples, and digests of its inputs and targets, as plain JSON values.

    ``targets`` are those of the dataset, not scaled. The random numbers of the process stay as they are.
    """
    return {
        name: {
            "samples": getattr(split, "length", len(split)),
            "inputs": _inputs(split),
            "targets": _digest(split.targets),
        }
        | ({} if split.weights is None else {"weights": _digest(split.weights)})
        for name, split in data.splits.items()
    }


def data_fingerprint(data: Data, seed: int, epoch: int) -> str:
    """SHA-256 of the prepared training targets in the order that ``seed`` gives them in ``epoch``.

    Of an order that is computed, the first million; of targets that are not all known, these and the order.
    """
    if is_sampled(data.train):
        known = data.train.targets.cpu().contiguous().numpy().tobytes()
        first = (
            () if isinstance(data.train, StreamSplit) else epoch_order(len(data.train), seed, epoch)[:_LOADED]
        )
        return hashlib.sha256(known + bytes(str(first), "utf-8")).hexdigest()
    order = epoch_order(len(data.train), seed, epoch, chunks=getattr(data.train, "chunks", None))
    targets = data.train.targets.cpu()[order[: None if isinstance(order, Tensor) else _FIRST]].contiguous()
    return hashlib.sha256(targets.numpy().tobytes()).hexdigest()


def differences(
    state: Mapping[str, Any], data: Data, order: str | None = None, splits: Collection[str] = _SPLITS
) -> list[str]:
    """How ``data`` differs from that of a checkpoint, in words; empty where it is the same.

    Args:
        state: of the checkpoint.
        order: what :func:`data_fingerprint` says now of the checkpoint's epoch; None does not compare it.
        splits: those to compare.

    Raises CheckpointError where the checkpoint's description of its data is damaged.
    """
    try:
        then = described_data(state)
        names = [each["name"] for each in (then.get("reading") or {}).get("columns", ())]
        found = _listed("columns", [each["name"] for each in data.reading.get("columns", ())], names)
        found += _listed("classes", list(data.classes), list(then["classes"]))
        stored, known = (
            {name: each for name, each in given.items() if name in splits}
            for given in (then["fingerprint"], data.fingerprint)
        )
        found += _differing_splits(stored, known)
        if not found and order not in (None, state["data_fingerprint"]):
            found = [f"another order of the samples in train{_read_by(state['data_fingerprint'], order)}"]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint's description of its data is damaged: {error}") from error
    return found


def described_data(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A checkpoint's description of its run's data. Raises CheckpointError without a usable one."""
    described = state.get("data")
    if not isinstance(described, dict) or not isinstance(described.get("reading") or {}, dict):
        raise CheckpointError("the checkpoint lacks a usable description of its data")
    return described


def refusal(found: list[str]) -> str:
    """The message on data that differs."""
    return f"the training data is not what the run was trained on: {'; '.join(found)}"


def _inputs(split: AnySplit) -> str:
    if isinstance(split, Split):
        return _digest(split.inputs)
    if isinstance(split, StreamSplit):
        first = split.load.first if split.load.repeats else []
        return " ".join(_digest(part) for each in first for part in parts_of(each))
    if not len(split) or not getattr(split.load, "repeats", True):
        return ""
    # Only here: a run whose data is in memory does without the machinery of processes.
    from trainctl.data.worker_process import Samples, kept_random_state

    count = min(_LOADED, len(split))
    numbers = [number * len(split) // count for number in range(count)]
    with kept_random_state():
        made = Samples(split.load, 0)[(0, [(number, split.items[number]) for number in numbers])]
    # What cannot be loaded is named when its batch is made.
    return " ".join(map(_digest, parts_of(made)))


def _digest(values: Any) -> str:
    """SHA-1 of type, shape and values: the fastest of hashlib's; it detects changes, not forgery."""
    if not isinstance(values, Tensor):
        return ""
    values = values.detach()
    size = values.numel() * values.element_size()
    if size > _MOST_BYTES:
        count = max(1, _MOST_BYTES * len(values) // size)
        values = values[torch.arange(count, device=values.device) * len(values) // count]
    digest = hashlib.sha1(f"{values.dtype} {tuple(values.shape)}".encode(), usedforsecurity=False)
    digest.update(values.cpu().to_dense().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_by(then: str, now: str | None) -> str:
    """What follows the digest: how many workers read a stream (``loader.workers``)."""
    before, after = (each[_DIGEST:] for each in (then, now or ""))
    return "" if before == after else f", which is that of loader.workers={after or 0}, not {before or 0}"


def _listed(what: str, now: list[str], then: list[str]) -> list[str]:
    if now == then:
        return []
    shown = (", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "") for names in (now, then))
    return [f"other {what} ({' instead of '.join(each or 'none' for each in shown)})"]


def _differing_splits(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Splits that have another size; then those of the same size with other inputs or targets."""
    sizes = {name: (_size(now, name), _size(then, name)) for name in {**then, **now}}
    found = [f"{new} samples in {name}, not {old}" for name, (new, old) in sizes.items() if new != old]
    both = [name for name, (new, old) in sizes.items() if new == old]
    for what in ("inputs", "targets", "weights"):
        absent = {what: None} if what == "weights" else {}
        other = [name for name in both if (absent | now[name])[what] != (absent | then[name])[what]]
        if other:
            found.append(f"other {what} in {', '.join(other)}")
    return found


def _size(splits: Mapping[str, Any], name: str) -> Any:
    return splits[name]["samples"] if name in splits else 0
