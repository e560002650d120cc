"""The first difference between two checkpoints, or two rows of metrics, named by its cause."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData
from trainctl.errors import CheckpointError

_BEST = "best and early stopping"
_RESULTS = ("best", "last", "num_bad_epochs", "best_value", "stop", "skipped")
_CURSOR = ("data_fingerprint", "step", "epoch", "position", "evaluated")
# The length of metrics.jsonl depends on the time that evaluations took.
_NOT_COMPARED = ("metrics_log",)
_ABSENT = "absent"


def compare(then: CheckpointData, now: CheckpointData, tolerance: float = 0.0) -> str | None:
    """The first difference, causes before effects, such as ``optimizer: state.0.step``; None without one.

    Hooks that ``now`` does not have are left out; with a ``tolerance``, the results of evaluations too: of
    two nearly equal ones either may be best. Raises CheckpointError where ``then`` lacks something.
    """
    names = [name for name in now.state["parts"] if name not in _NOT_COMPARED]
    try:
        before, after = _parts(then, names), _parts(now, names)
        for name, values in before.items():
            if tolerance and name == _BEST:
                continue
            if (found := difference(values, after[name], tolerance)) is not None:
                return f"{name}: {found}"
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint at step {then.step} lacks {error}") from error
    return None


def _parts(content: CheckpointData, names: Sequence[str]) -> dict[str, Any]:
    """What decides how a run goes on, causes before effects."""
    state, parts = content.state, content.state["parts"]
    kept = {name: snapshot.unpack(parts[name], content.training) for name in names}
    return {
        "data order": {key: state[key] for key in _CURSOR},
        "random numbers": kept.pop("random"),
        "optimizer": kept.pop("optimizer"),
        "scheduler": kept.pop("plateau", None) or kept.pop("scheduler", None),
        _BEST: {key: state[key] for key in _RESULTS},
        **{f"hook {name}": each for name, each in kept.items()},
        "weights": dict(content.model),
    }


def difference(then: Any, now: Any, tolerance: float = 0.0, place: str = "") -> str | None:
    """Where two values differ, bit for bit or by more than the relative tolerance; None without one."""
    if isinstance(then, Tensor) and isinstance(now, Tensor):
        return None if _same_tensors(then, now, tolerance) else place
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        pairs = [(key, then.get(key, _ABSENT), now.get(key, _ABSENT)) for key in {**then, **now}]
    elif isinstance(then, list | tuple) and isinstance(now, list | tuple) and len(then) == len(now):
        pairs = [(index, *pair) for index, pair in enumerate(zip(then, now, strict=True))]
    else:
        numbers = isinstance(then, float) and isinstance(now, float)
        if tolerance and numbers and math.isclose(then, now, rel_tol=tolerance, abs_tol=tolerance):
            return None
        # Equal text is equal bits.
        texts = [json.dumps(value, sort_keys=True, default=repr) for value in (then, now)]
        shown = f"{place}: {texts[0]} recorded, {texts[1]} now"
        return None if texts[0] == texts[1] else shown if len(shown) < 160 else place
    found = (difference(one, other, tolerance, f"{place}.{key}".lstrip(".")) for key, one, other in pairs)
    return next((each for each in found if each is not None), None)


def _same_tensors(then: Tensor, now: Tensor, tolerance: float) -> bool:
    if (then.dtype, then.shape) != (now.dtype, now.shape):
        return False
    one, other = (each.detach().cpu().contiguous() for each in (then, now))
    if not tolerance or not one.is_floating_point():
        return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
    # Relative to the size of all values: single ones may be anywhere near 0.
    off = torch.linalg.vector_norm(one.double() - other.double())
    return bool(off <= tolerance * torch.linalg.vector_norm(one.double()) + 1e-12)
