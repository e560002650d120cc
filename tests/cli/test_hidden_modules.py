"""Files of the user's with the names of modules hide none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = """
from torch import nn
from trainctl.registry import MODELS

@MODELS.register("mine")
def mine(input_shape: tuple[int, ...], output_size: int):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, output_size))
"""


@pytest.mark.parametrize(
    "words",
    [
        [],
        pytest.param(["-m", "seed=1,2", "sweep.jobs=2"], marks=pytest.mark.slow),
        pytest.param(["devices=2"], marks=pytest.mark.slow),
    ],
    ids=["run", "sweep", "devices"],
)
def test_a_file_called_as_a_module_hides_it_nowhere(words: list[str], tmp_path: Path) -> None:
    for name in ("random.py", "token.py", "logging.py", "tempfile.py"):
        (tmp_path / name).write_text('raise SystemExit("this file was imported")\n')
    (tmp_path / "torch.py").write_text(PLUGIN)
    given = [*words, "plugins=[./torch.py]", "model.name=mine", "threads=1", "epochs=1"]
    done = subprocess.run(
        [sys.executable, "-m", "trainctl", *given], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "this file was imported" not in done.stdout + done.stderr
