"""A run on Google Cloud Storage, which an emulator stands for."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import WORDS, record

URL = "gs://bucket/runs/first"


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("gcsfs")
    server_module = pytest.importorskip("gcp_storage_emulator.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = server_module.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    # gcsfs would ask for the kind of the bucket by gRPC, which the emulator does not speak.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    yield
    server.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("emulator")
def test_a_run_is_mirrored_carried_on_and_used(trainctl: Callable[..., Any], tmp_path: Path) -> None:
    words = (*WORDS, "checkpoint.keep_last=1", "display.mode=plain")
    outcome = trainctl(*words, f"checkpoint.mirror={URL}", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert record(tmp_path / "run")["mirror"]["lacks"] == []
    assert trainctl("eval", URL).code == 0
    outcome = trainctl("resume", URL, "epochs=4")
    assert outcome.code == 0, outcome.err
    (resumed,) = (path.parent for path in tmp_path.glob("outputs/*/*/run.json"))
    assert record(resumed)["last"]["epoch"] == 4


def test_a_missing_package_is_named() -> None:
    pytest.importorskip("fsspec")
    code = f"""
import sys
sys.modules["gcsfs"] = None
from trainctl.errors import ConfigError
from trainctl.runs.bucket import connected
try:
    connected({URL!r})
except ConfigError as error:
    print(error.problems[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Please install gcsfs" in done.stdout, done.stderr
    assert "pip install 'trainctl[gcs]'" in done.stdout
