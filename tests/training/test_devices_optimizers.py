"""Every optimizer takes the same steps on several devices as on one, or says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ranks import assert_same_run
from tests.helpers.ranks import warm_ranks as warm_ranks

pytestmark = [pytest.mark.usefixtures("warm_ranks"), pytest.mark.slow]
FEW = (
    "threads=1", "strategy.timeout=60", "dataset.limit=203", "train.batch_size=32", "train.epochs=2",
    "display.mode=none",
)  # fmt: skip
OPTIMIZERS = sorted(path.stem for path in Path(__file__).parents[2].joinpath("conf", "optim").glob("*.yaml"))
REFUSED_CUT: dict[str, str] = {
    "muon": "optim=muon works on whole matrices",
    "adafactor": "cannot be done on parts of a parameter",
    "scratch_adam": "strategy=fsdp needs an optimizer of torch, not optim=scratch_adam",
    "scratch_sgd": "strategy=fsdp needs an optimizer of torch, not optim=scratch_sgd",
}
TOLERANCE = {"muon": 1e-4}
"""Muon makes matrices orthogonal in bfloat16, which makes more of the last bits of a gradient."""


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_step_is_that_of_one_device(
    optimizer: str, strategy: str, devices: int, trainctl: Callable[..., Any]
) -> None:
    given = (*FEW, f"optim={optimizer}", f"strategy={strategy}")
    assert trainctl(*given, "hydra.run.dir=one").code == 0
    outcome = trainctl(*given, f"devices={devices}", "hydra.run.dir=several")
    if strategy == "fsdp" and optimizer in REFUSED_CUT:
        assert outcome.code == 2
        assert REFUSED_CUT[optimizer] in outcome.err
        assert "strategy=ddp" in outcome.err
        return
    assert outcome.code == 0, outcome.err
    assert_same_run("one", "several", TOLERANCE.get(optimizer, 2e-6))
