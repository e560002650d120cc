"""benchmarks/gpu.py does all of its parts, without a GPU as well."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def test_a_part_that_hangs_keeps_its_figures(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpu_parts.py").write_text(
        "import pathlib, sys, time\n"
        'pathlib.Path(sys.argv[5]).write_text(\'{"rows": [{"way": 1}]}\')\n'
        "print('at work', flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setitem(gpu.PARTS, "steps", ("Steps", 0.8))
    monkeypatch.setattr(gpu, "_LEAST", 0.1)
    asked = argparse.Namespace(device="cuda", quick=False, out=tmp_path / "out")
    started = time.monotonic()
    found = gpu.measure("steps", asked, tmp_path / "part", tmp_path, 60.0)
    assert time.monotonic() - started < 10
    assert found["rows"] == [{"way": 1}]
    assert (tmp_path / "out" / "gpu-steps.log").read_text() == "at work\n"
    assert found["failed"] == "was stopped after 0.8 s: at work"


def test_the_section_takes_the_place_of_the_earlier_one(gpu: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "RESULTS.md").write_text(
        "# Results\n\nfirst\n\n## On a GPU\n\nold\n\n### Steps\n\n## Sweeps\n\nlast\n"
    )
    part = {"rows": [{"way": "trainctl", "steps/s": "9"}], "failed": ""}
    results = {"when": "now", "device": "cuda", "quick": False, "data": "MNIST", "parts": {"steps": part}}
    for _ in range(2):
        gpu.write(tmp_path, results)
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.startswith("# Results\n\nfirst\n\n## On a GPU\n\n`make gpu`, now: cuda")
    assert text.endswith("| trainctl | 9 |\n\n## Sweeps\n\nlast\n")
    assert "old" not in text
    assert json.loads((tmp_path / "gpu.json").read_text()) == results


@pytest.mark.slow
def test_all_parts_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--quick"]
    done = subprocess.run(
        [*command, "--seconds", "900", "--out", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {part: bool(found["rows"]) for part, found in parts.items()} == dict.fromkeys(parts, True)
    assert len(parts) == 6
