"""Text from files: no control character but newline and tab reaches a stream, a log or a page."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from tests.helpers.display import Terminal
from trainctl.errors import ConfigError
from trainctl.runs.printable import ShownFormatter, shown
from trainctl.ui.console import SafeConsole
from trainctl.ui.errors import show_error
from trainctl.ui.live import Rich
from trainctl.ui.page import page
from trainctl.ui.plain import Plain
from trainctl.ui.screen import Screen
from trainctl.ui.streams import unbreakable_streams
from trainctl.ui.table import Column, Table

EVIL = "a\x1b]0;TITLE\x07\x1b[2J\x1b]52;c;cm0=\x07\r\x08\x7f\x9b31m\u202eb"
# What rich sends itself: colours, and control of the cursor's line.
_STYLES = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\r")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def clean(text: str) -> bool:
    return _CONTROL.search(_STYLES.sub("", text)) is None and "\x1b[2J" not in text


def test_newlines_and_tabs_stay_and_what_is_shown_is_shown_once() -> None:
    assert shown("ü\n\t✓") == "ü\n\t✓"
    assert shown("\x1b[2J\x9b") == r"\x1b[2J\u009b"
    assert shown(shown(EVIL)) == shown(EVIL)


@pytest.mark.parametrize("mode", ["plain", "rich"])
def test_a_screen_shows_control_characters(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    screen = Screen(stream, mode)
    screen.line(EVIL, "bold")
    screen.pieces([(EVIL, "red")])
    screen.pairs([(EVIL, EVIL)])
    screen.table(Table((Column(EVIL),), ((EVIL,),), EVIL, EVIL))
    assert clean(stream.getvalue())
    assert r"\x1b]0;TITLE" in stream.getvalue()


@pytest.mark.parametrize("display", [Plain, Rich])
def test_a_display_shows_control_characters(display: type[Plain | Rich]) -> None:
    stream = Terminal()
    shows = display(stream)
    shows.header(EVIL, [(EVIL, EVIL)])
    shows.notice(EVIL)
    shows.table([EVIL])
    shows.closing({"best": {EVIL: 1.0}}, [(EVIL, EVIL)])
    assert clean(stream.getvalue())
    assert r"\x1b]0;TITLE" in stream.getvalue()


def test_an_error_shows_control_characters() -> None:
    for stream in (io.StringIO(), Terminal()):
        show_error(ConfigError(EVIL, EVIL), stream)
        assert clean(stream.getvalue())
        assert r"\x1b]0;TITLE" in stream.getvalue()


def test_the_streams_of_every_verb_show_what_anything_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    with unbreakable_streams():
        print(EVIL)
        SafeConsole(sys.stdout).print("styled", style="bold red")
    assert r"\x1b]0;TITLE" in stream.getvalue()
    assert clean(stream.getvalue())


def test_a_log_and_a_page_show_control_characters() -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s", (EVIL,), None)
    for text in (ShownFormatter("%(message)s").format(record), page(EVIL, "compare_page", [EVIL])):
        assert _CONTROL.search(text) is None
        assert r"\x1b]0;TITLE" in text
