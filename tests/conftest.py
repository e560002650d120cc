"""What all tests share: a folder of their own, no trace of one in the next, the real MNIST where it is."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from trainctl import registry
from trainctl.cli.main import main
from trainctl.registry import plugins

# Their own tests turn them on.
os.environ["TRAINCTL_PICTURES"] = "0"
# Runs of one fixture are used by several tests.
_STATE = tempfile.TemporaryDirectory(prefix="trainctl-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name
_SHARED_MNIST = Path(__file__).parents[2] / "shared" / "data" / "MNIST" / "raw"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test works in an empty folder, with a cache of its own and none of the caller's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    for name in ("TRAINCTL_DEBUG", "NO_COLOR", "HYDRA_FULL_ERROR", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    # trainctl's own components are imported once and stay; a test's plugins go.
    plugins._loaded.clear()
    for each in [*registry.COMPONENTS.values(), registry.METRICS, registry.TRACKERS]:
        foreign = [name for name, entry in each._entries.items() if not _is_own(entry.component)]
        for name in foreign:
            del each._entries[name]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails in these tests; tests/reliability has those in which it does."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def _is_own(component: Callable[..., object]) -> bool:
    return component.__module__.startswith("trainctl.")


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code and text."""

    code: int
    out: str
    err: str


@pytest.fixture
def trainctl(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call the program's ``main`` in this process."""

    def call(*words: str) -> Outcome:
        capfd.readouterr()
        code = main(list(words))
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the real MNIST; skips where it is absent."""
    if not _SHARED_MNIST.is_dir():
        pytest.skip("the real MNIST is not beside this checkout")
    root = tmp_path_factory.mktemp("data")
    shutil.copytree(_SHARED_MNIST, root / "MNIST" / "raw")
    return root


@pytest.hookimpl(tryfirst=True)  # before those that are not wanted are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    for item in items:
        if (quick := item.get_closest_marker("quick")) is not None:
            test = item.nodeid.partition("[")[0]
            seen[test] += 1
            if seen[test] > quick.args[0]:
                item.add_marker("slow")
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
