"""Every form of samples, loaded by any number of workers, trains on two devices as on one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ranks import assert_same_run
from tests.helpers.ranks import warm_ranks as warm_ranks
from trainctl.distributed import launch

pytestmark = pytest.mark.usefixtures("warm_ranks")
PLUGIN = """
import torch
from torch import nn
from torch.utils.data import Dataset
from trainctl.data import Datasets
from trainctl.registry import DATASETS, MODELS

class Patients(Dataset):
    def __init__(self, count, form):
        drawn = torch.Generator().manual_seed(count)
        self.scans, self.ages = (torch.rand(count, size, generator=drawn) for size in (6, 1))
        self.ill, self.form = (self.ages[:, 0] + self.scans[:, 0] > 1).long(), form

    def __len__(self):
        return len(self.ill)

    def __getitem__(self, index):
        scan, age, ill = self.scans[index], self.ages[index], self.ill[index]
        scan = scan + 0.1 * torch.randn(6)  # new in each epoch, and no other for another process
        return {
            "tuple": (scan, ill),
            "dictionary": {"scan": scan, "label": ill},
            "positions": ((scan, age), ill),
            "names": {"scan": scan, "age": age, "label": ill},
        }[self.form]

@DATASETS.register("patients")
def patients(form: str):
    return Datasets(Patients(107, form), test=Patients(31, form))

@MODELS.register("heads")
class Heads(nn.Module):
    def __init__(self, input_shape, output_size):
        super().__init__()
        self.scan, self.age, self.last = nn.Linear(6, 8), nn.Linear(1, 8), nn.Linear(8, output_size)

    def forward(self, scan, age=None):
        hidden = self.scan(scan) + (0 if age is None else self.age(age))
        return self.last(hidden.relu())
"""


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "form",
    [
        pytest.param("tuple", marks=pytest.mark.slow),
        pytest.param("dictionary", marks=pytest.mark.slow),
        pytest.param("positions", marks=pytest.mark.slow),
        "names",
    ],
)
def test_every_number_is_that_of_one_device_without_workers(
    form: str, workers: int, trainctl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("patients.py").write_text(PLUGIN)
    words = (
        "plugins=[./patients.py]", "dataset.name=patients", f"dataset.form={form}", "model.name=heads",
        "train.batch_size=10", "train.epochs=2", "threads=1", "strategy.timeout=60", "display.mode=none",
        *(("strategy.find_unused=true",) if form in ("tuple", "dictionary") else ()),
    )  # fmt: skip
    tried = {(1, 0), (1, workers), (2, workers)}
    if workers:
        monkeypatch.setattr(launch, "Process", subprocess.Popen)  # forked ranks cannot have workers
    for devices, number in sorted(tried):
        run = f"hydra.run.dir={devices}-{number}"
        outcome = trainctl(*words, f"devices={devices}", f"loader.workers={number}", run)
        assert outcome.code == 0, outcome.err
    for devices, number in tried - {(1, 0)}:
        assert_same_run("1-0", f"{devices}-{number}")
