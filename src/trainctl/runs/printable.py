"""Control characters in text from files: shown, never obeyed by a terminal."""

from __future__ import annotations

import logging
import re

# C0 without tab and newline, DEL, C1, the line separators, and what turns the direction of writing round.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """``text`` with its control characters written out; newlines and tabs stay."""
    return _CONTROL.sub(_written, text)


def _written(match: re.Match[str]) -> str:
    # Those above 127 are valid raw in JSON, where \x is not.
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 128 else f"\\u{code:04x}"


class ShownFormatter(logging.Formatter):
    """Log lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))
