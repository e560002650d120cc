"""What ``run.json`` says of how a run is trained."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

from trainctl.training.build import Built


def environment_of(built: Built, stored: list[dict[str, str]]) -> dict[str, Any]:
    """What ``run.json`` says of where a run is trained."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(built.device),
        "threads": built.threads,
        "matmul": torch.get_float32_matmul_precision(),
        "plugins": stored,
        **built.choices,
    }


def test_record(state: Any, test: Mapping[str, float]) -> dict[str, Any] | None:
    """What ``run.json`` says of the test: its values, at the step and epoch of the model that was tested."""
    if not test:
        return None
    where = {key: state.best[key] for key in ("step", "epoch")} if state.best else state.where
    return {**where, **test}


def step_record(built: Built) -> dict[str, Any]:
    """What ``run.json`` says of the training step: which one it is, and what is attached to the run."""
    return {"name": built.run.step_name, "attached": [hook.name for hook in built.run.hooks]}


def device_name(device: torch.device) -> str:
    """The device as people know it, a GPU with its model."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"
