"""Cells of text to numbers: decimal signs, thousands separators, units, times."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainctl.data.tables.dates import Order, are_times, find_order, seconds

TIME = "time"
"""The unit of dates and times: seconds since 1970, or since midnight."""
_MONEY = "$€£¥₹"
_WORD = r"(?!time)[A-Za-z°µμΩ][^\d\s]{0,9}(?: [^\d\s]{1,9})?"
"""A unit such as km, °C or sq ft, after a number; ``TIME`` is none."""
_CELL = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<before>[{_MONEY}]|EUR|USD|GBP|CHF|JPY|CNY|INR)?\s*(?P<sign_too>[-+]?)"
    rf"(?P<digits>[.,]?\d(?:[\d.,'’\s]*\d)?[.,]?(?:[eE][-+]?\d+)?)\s*(?P<after>[%‰{_MONEY}]|{_WORD})?",
    re.ASCII,
)
_SPACES = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "})
_SWAPPED = str.maketrans(",.", ".,")
# Three digits a group, or, in India, two to the left of the last three; no group begins with 0.
_GROUPED = re.compile(
    r"([1-9]\d{0,2}(?P<by>[,'’ ])\d{3}((?P=by)\d{3})*|[1-9]\d?(,\d\d)+,\d{3})(\.\d*)?", re.ASCII
)
_PLAIN = re.compile(r"(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
_EITHER = re.compile(r"\D*[1-9]\d{0,2}[.,]\d{3}\D*", re.ASCII)
"""1,200 and 1.850: thousands or a decimal."""
_SMALL = re.compile(r"\D*[1-9]\d{0,2}\D*", re.ASCII)
_LARGE = re.compile(r"\D*\d{4,}\D*", re.ASCII)


@dataclass(frozen=True)
class Notation:
    """How the numbers of a column are written.

    Attributes:
        comma: decimals follow a comma, points are between thousands; else the other way round.
        unit: what every cell has: a sign for a currency or per cent, a word such as km, or ``TIME``.
        dates: the order of day and month, where a date has two readings.
        proven: a cell can be read in this way only.
        unclear: a cell that has two readings, and no other cell tells which is right; else empty.
    """

    comma: bool = False
    unit: str = ""
    dates: Order = ""
    proven: bool = False
    unclear: str = ""


PLAIN = Notation()


def find_notation(texts: Mapping[str, int], decimal: str, delimiter: str) -> Notation:
    """The notation of a column's cells.

    ``850`` beside ``1,200`` is written with thousands separators; ``1.850`` beside ``750`` has two readings,
    as has a column of nothing but ``1,200``, unless commas separate the cells of the file, and one of nothing
    but ``1.200`` where semicolons do.

    Args:
        texts: the different texts of its cells in the order of their first cells, with their counts.
        decimal: ``.`` or ``,`` where that is known, else ``auto``.
        delimiter: of the file.
    """
    if decimal == "auto" and floats([*texts]) is not None:
        return _plain_notation(texts, delimiter)
    if are_times(texts):
        order, unclear = find_order(texts)
        return Notation(unit=TIME, dates=order, unclear=unclear)
    split = [(*found, count) for text, count in texts.items() if (found := _split(text)) is not None]
    counted: Counter[str] = Counter()
    for _, sign, count in split:
        counted[sign] += count
    unit = counted.most_common(1)[0][0] if counted else ""
    digits = [each for each, _, _ in split]
    if decimal != "auto":
        return Notation(decimal == ",", unit, proven=True)
    marked = [(each, count) for each, _, count in split if not each.isdecimal()]
    points = commas = 0
    for each, count in marked:
        point, comma = not math.isnan(_value(each, comma=False)), not math.isnan(_value(each, comma=True))
        points += count * (point and not comma)
        commas += count * (comma and not point)
    if points or commas:
        return Notation(commas > points, unit, proven=points == 0 or commas == 0)
    either = [each for each, _ in marked if _EITHER.fullmatch(each)]
    small = any(_SMALL.fullmatch(each) for each in digits)
    grouped = small and not any(_LARGE.fullmatch(each) for each in digits)
    with_comma = [each for each in either if "," in each]
    unclear = ""
    if with_comma and (len(with_comma) < len(either) or (delimiter != "," and not grouped)):
        unclear = with_comma[0]
    elif either and not with_comma and grouped:
        unclear = either[0]
    return Notation(False, unit, unclear=unclear)


def _plain_notation(texts: Iterable[str], delimiter: str) -> Notation:
    """The notation of cells that are all plain numbers: points may still be between thousands."""
    pointed = [text for text in texts if "." in text]
    if not pointed or not all(_EITHER.fullmatch(text) for text in pointed):
        return Notation(proven=bool(pointed))
    # Semicolons separate cells where commas are before decimals, and points between thousands.
    is_usual = delimiter == ";" or any(_SMALL.fullmatch(text) for text in texts)
    grouped = is_usual and not any(_LARGE.fullmatch(text) for text in texts)
    return Notation(unclear=pointed[0] if grouped else "")


def floats(texts: Sequence[str | None]) -> list[float] | None:
    """The value of each cell, NaN for None, if all are plain numbers; else None. Fast."""
    # float() accepts 1_000 and nan, which are not numbers in a table.
    try:
        values = [math.nan if text is None else float(text) for text in texts]
    except ValueError:
        return None
    odd = any("_" in text or "n" in text or "N" in text or not text.isascii() for text in texts if text)
    return None if odd else values


def units(texts: Mapping[str, int]) -> Counter[str]:
    """The units of the cells that are numbers, with their counts."""
    found = Counter[str]()
    for text, count in texts.items():
        if (split := _split(text)) is not None:
            found[split[1]] += count
    return found


def read_number(text: str, notation: Notation) -> float:
    """The value of a cell in this notation; NaN if it is none."""
    if notation.unit == TIME:
        return seconds(text, notation.dates)
    found = _split(text)
    if found is None:
        return _word(text)
    digits, unit = found
    return _value(digits, notation.comma) if unit == notation.unit else math.nan


def read_numbers(texts: Sequence[str | None], notation: Notation) -> list[float]:
    """The value of each cell; NaN where there is none."""
    return [math.nan if text is None else read_number(text, notation) for text in texts]


def _split(text: str) -> tuple[str, str] | None:
    """The signed digits of a cell and its unit; None for any other text."""
    text = text if text.isascii() else text.translate(_SPACES)
    found = _CELL.fullmatch(text)
    if found is None:
        return None
    sign, before, sign_too, digits, after = found.group("sign", "before", "sign_too", "digits", "after")
    if (sign and sign_too) or (before and after):
        return None
    if after and len(after) > 2:
        after = after.removesuffix("s")  # 1 day, 2 days
    return f"{sign}{sign_too}{digits}", before or after or ""


def _value(digits: str, comma: bool) -> float:
    if comma:
        digits = digits.translate(_SWAPPED)
    body = digits.lstrip("+-")
    if _PLAIN.fullmatch(body):
        return float(digits)
    if _GROUPED.fullmatch(body):
        return float(re.sub(r"[,'’ ]", "", digits))
    return math.nan


def _word(text: str) -> float:
    """Infinity is a number, though no cell may hold it."""
    word = text.lower().lstrip("+-")
    return (
        math.copysign(math.inf, -1 if text.startswith("-") else 1)
        if word in ("inf", "infinity")
        else math.nan
    )
