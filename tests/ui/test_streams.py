"""Standard output and error that cannot stop a command."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.helpers.display import Broken
from trainctl.ui.streams import Unbreakable, unbreakable_streams


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "I/O error"), ValueError("closed")]
)
def test_after_the_first_failure_nothing_more_is_written(error: Exception) -> None:
    stream = Broken(error)
    guarded = Unbreakable(stream)
    print("one", file=guarded)
    print("two", file=guarded)
    guarded.flush()
    assert guarded.error is error
    assert stream.calls == 1


def test_they_are_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with unbreakable_streams() as output:
        print("said")
        print("warned", file=sys.stderr)
        assert output.error is None
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("said\n", "warned\n")


def test_a_real_pipe_without_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    with unbreakable_streams() as output:
        print("said", flush=True)
        assert isinstance(output.error, BrokenPipeError)
    stream.close()  # which flushes once more, and must not fail


def test_a_program_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under pythonw, or after ``>&-``: Python has None for them."""
    monkeypatch.setattr(sys, "stdout", None)
    with unbreakable_streams() as output:
        print("said")
        assert output.error is None
    assert sys.stdout is None


_PRINTS = """
import os
from trainctl.ui.streams import unbreakable_streams
with unbreakable_streams():
    print("x" * 300_000)
os.write(2, str(os.get_blocking(1)).encode())
"""


def test_a_pipe_that_does_not_block_gets_all_of_it() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with subprocess.Popen([sys.executable, "-c", _PRINTS], stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        time.sleep(0.5)  # a reader that is slower than the writer
        with os.fdopen(reading, "rb") as pipe:
            assert len(pipe.read()) == 300_001
        assert process.communicate()[1] == b"False"
    assert process.returncode == 0
