"""Imports: the collector rests while they run, signals wait, and both are as before afterwards."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainctl.training.interrupts import Stopped, held_back, terminable
from trainctl.training.startup import collector_paused, importing


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_as_before_afterwards(on: bool) -> None:
    (gc.enable if on else gc.disable)()
    try:
        with pytest.raises(ValueError, match="inside"), collector_paused():  # noqa: PT012
            assert not gc.isenabled()
            raise ValueError("inside")
        assert gc.isenabled() == on
    finally:
        gc.enable()


def test_a_second_import_freezes_nothing() -> None:
    before = gc.get_freeze_count()
    with importing():
        pass
    assert gc.get_freeze_count() == before


COLLECTED = """
import gc
from trainctl.training.startup import importing
looked_through = []
gc.callbacks.append(lambda phase, info: phase == "start" and looked_through.append(len(gc.get_objects(0))))
with importing():
    import torch
kept = [[] for _ in range(3000)]
print(max(looked_through), gc.get_freeze_count())
"""


@pytest.mark.slow
def test_the_collector_never_looks_through_what_was_imported() -> None:
    done = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True, timeout=60)
    looked_through, frozen = map(int, done.stdout.split())
    assert looked_through < 5000
    assert frozen > 100_000


def test_a_signal_waits_for_the_end_of_an_import() -> None:
    reached = False
    with pytest.raises(Stopped) as stopped, terminable():  # noqa: PT012 - where it is raised is the point
        with held_back():
            os.kill(os.getpid(), signal.SIGTERM)
            reached = True
        raise AssertionError("the signal was lost")
    assert reached
    assert stopped.value.error.exit_code == 143


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


PRELOADED = """
import sys, threading
from trainctl.training.startup import load_libraries_meanwhile
thread = load_libraries_meanwhile()
thread.join()
mapped = open("/proc/self/maps").read()
print("libtorch_cpu.so" in mapped, "torch" in sys.modules)
import torch
print(load_libraries_meanwhile(), torch.ones(2).sum().item())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the dynamic linker of Linux")
@pytest.mark.slow
def test_torchs_libraries_are_loaded_before_it_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", PRELOADED], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["True False", "None 2.0"], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the dynamic linker of Linux")
def test_libraries_that_cannot_be_loaded_are_left_to_torch(tmp_path: Path) -> None:
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").write_text("")
    module = "trainctl.training.startup"
    program = f"from {module} import load_libraries_meanwhile as load\nt = load()\nt and t.join()\nprint(t)"

    def tried() -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout

    assert tried().startswith("<Thread(libraries, stopped")
    for name in ("libtorch_global_deps.so", "libtorch.so"):
        (tmp_path / "torch" / "lib" / name).write_text("no library")
    assert tried().startswith("<Thread(libraries, stopped")


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), held_back():  # noqa: PT012 - where it is raised is the point
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it waited")
