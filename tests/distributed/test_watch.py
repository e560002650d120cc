"""What rank 0 finds out while its main thread waits."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from trainctl.distributed import watch
from trainctl.distributed.watch import watched
from trainctl.errors import RankError


def test_a_failure_is_raised_in_a_main_thread_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_NOTICES", 0.1)
    began = time.monotonic()
    with (
        pytest.raises(RankError, match="rank 1 has gone"),
        watched(print, lambda: RankError("rank 1 has gone")),
    ):
        time.sleep(30)
    assert time.monotonic() - began < 10


def test_a_failure_that_it_finds_out_itself_is_not_raised_again() -> None:
    with pytest.raises(ValueError, match="its own"), watched(print, lambda: RankError("gone")):
        raise ValueError("its own")
    time.sleep(0.3)


def test_the_second_interrupt_is_told_and_handlers_are_as_before() -> None:
    told = threading.Event()
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        with watched(told.set, lambda: None):
            for _ in range(2):
                assert not told.is_set()
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.5)
            assert told.wait(10)
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.set_wakeup_fd(-1) == -1
    assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL
