"""Every option trains, saves, evaluates, predicts and exports on a GPU, with the losses of the CPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainctl.config.composer import Composer
from trainctl.inference.evaluate import score
from trainctl.inference.trained_run import load_run
from trainctl.smoke.cases import Case, find_cases
from trainctl.smoke.lifecycle import LifecycleTest
from trainctl.training.run import Hook, Run

GROUPS = (
    "augment",
    "dataset",
    "debug",
    "experiment",
    "loader",
    "loop",
    "loss",
    "metric",
    "model",
    "optim",
    "scheduler",
)
CASES = [case for case in find_cases([], GROUPS)[0] if case.group in GROUPS]


class Losses(Hook):
    name = "losses"

    def __init__(self) -> None:
        self.found: list[float] = []
        self.devices: set[str] = set()

    def step(self, run: Run, loss: Tensor) -> None:
        self.devices.add(loss.device.type)
        self.found.append(float(loss))


def lived(case: Case, folder: Path, *settings: str) -> tuple[LifecycleTest, Losses]:
    """The life of a case, and the losses of its first steps; skips what needs what is not here."""
    results: list[Any] = []

    def tell(kind: str, result: Any) -> None:
        if kind == "result":
            results.append(result)

    life = LifecycleTest(Composer(), case, settings, folder, tell, lambda *asked: 0)
    folder.mkdir()
    losses = Losses()
    life.do("compose", life.compose)
    life.do("build", life.build)
    if life.over is None:
        life.built.run.attach([losses])
    # Not smoke's own phases: neither gradients of convolutions nor the CPU's sums repeat to the last bit.
    life.do("train", life._train)
    life.do("save", lambda: life._run(life.used))
    life.do("evaluate", lambda: evaluated(life))
    life.do("predict", life._predict)
    life.do("export", lambda: life._export("safetensors"))
    failed = [f"{each.phase}: {each.reason}" for each in results if each.status == "failed"]
    assert not failed
    if not losses.found:
        pytest.skip(results[1].reason)
    return life, losses


def evaluated(life: LifecycleTest) -> None:
    """The values from the directory alone are near the recorded ones."""
    life.trained = load_run(life.used, device=torch.device("cpu"))
    found = score(life.trained, None)
    for name, recorded in (found.recorded or {}).items():
        assert found.values.get(name, recorded) == pytest.approx(recorded, rel=1e-3, abs=1e-5, nan_ok=True), (
            name
        )


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_every_option(case: Case, device: str, tmp_path: Path) -> None:
    there, on_device = lived(case, tmp_path / device, f"device={device}", "train.precision=fp32")
    assert on_device.devices == {device}
    assert all(map(math.isfinite, on_device.found))
    _, on_cpu = lived(case, tmp_path / "other", "device=cpu", "train.precision=fp32")
    # Dropout and augmentation draw other numbers there.
    drawn = case.group == "augment" or "dropout" in str(there.built.run.model).lower()
    # Convolutions multiply in TF32 there; a step on a large loss makes more of it.
    for loss, expected, near in zip(on_device.found, on_cpu.found, (5e-3, 5e-2), strict=True):
        assert loss == pytest.approx(expected, rel=1.0 if drawn else near, abs=1e-4)
