"""Text for terminals and logs: control characters are shown, never obeyed; logs have no secrets."""

from __future__ import annotations

import logging
import re

from trainctl.runs.secrets import masked

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
    """Log lines without control characters, and without values that the config has of the environment."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(masked(super().format(record)))
