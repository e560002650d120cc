"""Imports: the collector rests while they run, signals wait, and both are as before afterwards."""

from __future__ import annotations

import gc
import os
import signal

import pytest

from trainctl.interrupts import Stopped, held_back, terminable
from trainctl.startup import collector_paused, importing


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
