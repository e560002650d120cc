"""Errors, as who calls trainctl from Python sees them."""

from __future__ import annotations

import pickle
import traceback

from trainctl.errors import ConfigError, Problem


def test_a_traceback_shows_the_remedies_below_the_message() -> None:
    error = ConfigError([Problem("lr=abc: must be a number", "try lr=0.1"), Problem("epochs=0: too few")])
    assert traceback.format_exception_only(error)[-2:] == [
        "trainctl.errors.ConfigError: lr=abc: must be a number; epochs=0: too few\n",
        "try lr=0.1\n",
    ]


def test_an_error_of_a_worker_arrives_whole() -> None:
    error = pickle.loads(pickle.dumps(ConfigError("lr=abc: must be a number", "try lr=0.1")))
    assert error.problems == (Problem("lr=abc: must be a number", "try lr=0.1"),)
    assert error.__notes__ == ["try lr=0.1"]
