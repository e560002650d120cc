"""The error screen, the listings and the table at the end of a sweep."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from tests.helpers.display import Terminal
from trainctl.errors import ConfigError, InterruptedRunError, Problem, TerminatedRunError
from trainctl.ui.errors import show_error
from trainctl.ui.listing import Listing


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "20")
    return


def error_text(error: Exception, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    show_error(error, stream)  # type: ignore[arg-type]
    return stream.getvalue()


def test_each_problem_has_a_line_and_each_remedy_one_below() -> None:
    error = ConfigError([Problem("a=1: wrong", "try a=2"), Problem("b: unknown")])
    assert error_text(error) == "error: a=1: wrong\n       try a=2\nerror: b: unknown\n"


def test_the_same_problem_is_said_once() -> None:
    assert error_text(ConfigError([Problem("a"), Problem("b"), Problem("a")])).count("error: a") == 1


@pytest.mark.parametrize("kind", [InterruptedRunError, TerminatedRunError])
def test_a_run_that_was_stopped_is_no_error(kind: type[ConfigError]) -> None:
    assert error_text(kind("at step 3")) == "stopped: at step 3\n"


def test_a_terminal_gets_colour_unless_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ConfigError("wrong", "right")
    assert "\033[1;31merror:\033[0m wrong" in error_text(error, Terminal())
    assert "\033" not in error_text(error)
    monkeypatch.setenv("NO_COLOR", "")
    assert "\033" not in error_text(error, Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\033" not in error_text(error, Terminal())


def test_errors_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(ConfigError("wrong"))
    assert capsys.readouterr() == ("", "error: wrong\n")


LONG = "a summary that is much longer than the narrow terminal it is shown on"


def test_a_group_lists_its_options_under_each_other() -> None:
    stream = io.StringIO()
    Listing(stream).group("model", {"mlp": "Fully connected", "sequential": LONG, "bare": ""})
    assert stream.getvalue() == f"model\n  mlp         Fully connected\n  sequential  {LONG}\n  bare\n"


def test_a_terminal_gets_lines_that_fit() -> None:
    stream = Terminal()
    Listing(stream).group("model", {"mlp": LONG, "cnn": "short"})
    _, cut, whole = stream.getvalue().splitlines()
    assert 25 < len(cut) <= 40
    assert cut.endswith(" …")
    assert f"  mlp  {LONG}".startswith(cut[:-2])
    assert whole == "  cnn  short"


def test_a_component_shows_its_doc_and_its_arguments_in_columns() -> None:
    stream = io.StringIO()
    rows = [("optim.lr", "0.001", "a number"), ("optim.betas", "[0.9, 0.999]", "a list")]
    Listing(stream).component("optim=adam", "Adam.\n\nMore.\n", rows)
    assert stream.getvalue().splitlines() == [
        "optim=adam",
        "  Adam.",
        "",
        "  More.",
        "",
        "  optim.lr     0.001         a number",
        "  optim.betas  [0.9, 0.999]  a list",
    ]


def test_a_component_without_arguments_says_so() -> None:
    stream = io.StringIO()
    Listing(stream).component("scheduler=none", "Constant.", [])
    assert stream.getvalue().endswith("  no arguments\n")


def test_another_option_is_its_file() -> None:
    stream = io.StringIO()
    Listing(stream).text("guard=none", "# No check\nloss: false")
    assert stream.getvalue() == "guard=none\n  # No check\n  loss: false\n"
