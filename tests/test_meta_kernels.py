"""torch begins without its meta kernels, and has all of them as soon as anything could miss them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainctl import meta_kernels

# Processes are forked from one that has imported torch without the kernels; each needs them in another way.
NEEDING = """
import os, sys
from trainctl import meta_kernels
if sys.argv[1] == "later":
    meta_kernels.later()
import torch

def registered():
    return hash(frozenset(torch._C._dispatch_get_registrations_for_dispatch_key("Meta")))

def needed(way):
    if way == "asked":
        meta_kernels.now()
    elif way == "read":
        torch._meta_registrations.meta_index_Tensor
    elif way == "nothing":
        pass
    else:
        module = __import__(way, fromlist=["_"])
        assert module is sys.modules[way] and module.__spec__.origin == module.__file__
    print(way, registered(), flush=True)

for way in sys.argv[2:]:
    if os.fork() == 0:
        try:
            needed(way)
        finally:
            os._exit(0)
    os.wait()
"""
WAYS = ["nothing", "asked", "read", "torch._decomp", "torch._refs"]


def run_program(program: str, *words: str, cwd: Path | None = None) -> list[str]:
    environment = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin", "TRAINCTL_PICTURES": "0"}
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_need_brings_back_what_torch_registers_by_itself() -> None:
    whole = run_program(NEEDING, "whole", "nothing")[0].split()[1]
    found = dict(line.split() for line in run_program(NEEDING, "later", *WAYS))
    assert found.pop("nothing") != whole
    assert found == dict.fromkeys(WAYS[1:], whole)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["torch._dynamo", "torchvision"])
def test_a_package_that_uses_them_finds_them(package: str) -> None:
    whole, later = (run_program(NEEDING, how, package)[0] for how in ("whole", "later"))
    assert later == whole


TRAINED = """
import sys
sys.argv[0] = "trainctl"
from trainctl.cli.main import main
code = main()
print("kernels", type(sys.modules["torch._meta_registrations"]).__name__)
sys.exit(code)
"""
WORDS = ["epochs=1", "train.max_steps=20", "threads=1", "display.mode=plain"]


def losses(directory: Path) -> list[float]:
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [row["train/loss"] for row in rows if "train/loss" in row]


def test_a_run_does_without_them_and_trains_the_same(tmp_path: Path, trainctl: Callable[..., Any]) -> None:
    lines = run_program(TRAINED, *WORDS, "hydra.run.dir=without", cwd=tmp_path)
    assert lines[-1] == "kernels _Later"
    assert trainctl(*WORDS, f"hydra.run.dir={tmp_path / 'with'}").code == 0
    assert losses(tmp_path / "without") == losses(tmp_path / "with")
    assert len(losses(tmp_path / "with")) == 20


PLUGIN = """
import torch

shape = torch.nn.Conv2d(1, 2, 3, device="meta")(torch.ones(1, 1, 5, 5, device="meta")).shape
assert shape == (1, 2, 3, 3)
"""


def test_a_plugin_has_all_of_torch(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    lines = run_program(TRAINED, *WORDS, "plugins=[./mine.py]", cwd=tmp_path)
    assert lines[-1] == "kernels module"


def test_another_version_of_torch_is_imported_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch")
    before = list(sys.meta_path)
    for version in ("", "__version__ = '3.0.0'\n"):
        if version:
            (package / "version.py").write_text(version)
        meta_kernels.later()
        assert sys.meta_path == before
    (package / "version.py").write_text("__version__ = '2.15.3'\n")
    meta_kernels.later()
    assert len(sys.meta_path) == len(before) + 1
    meta_kernels.now()
    assert sys.meta_path == before
