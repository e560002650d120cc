"""JSON that somebody else may have written: what Python reads and nothing can be done with is refused."""

from __future__ import annotations

import json
import re
from typing import Any

DEEPEST = 100
"""Levels of nesting: trainctl writes a tenth of them, and code that descends fails at some hundred."""
DIGITS = 20
"""Digits of a whole number: beyond them it fits no integer of 64 bits, beyond 308 no float."""
_BRACKET = re.compile(rb"[\[{]")


def parse(content: bytes, brackets: int = DEEPEST) -> Any:
    """The values in ``content``, which is UTF-8.

    Of so few opening ``brackets`` the nesting is not measured. Raises ValueError for what is no JSON, for
    nesting deeper than ``DEEPEST`` and for whole numbers of more than ``DIGITS`` digits.
    """
    try:
        values = json.loads(content.decode(), parse_int=_whole)
    except RecursionError:
        raise _too_deep() from None
    if len(_BRACKET.findall(content)) > brackets and _depth(values) > DEEPEST:
        raise _too_deep()
    return values


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {DEEPEST} levels")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"it has a whole number of {len(digits)} digits")
    return int(digits)


def _depth(values: Any) -> int:
    depth, level = 0, [values]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
    return depth
