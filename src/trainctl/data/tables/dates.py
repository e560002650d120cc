"""Cells of text to dates and times of day, in seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from typing import Literal

Order = Literal["", "day_first", "month_first"]
"""How 3/4/2024 is read; empty where no cell is written so."""
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<part>\d{1,9}))?)?"
    r"(?: ?(?P<half>[AP])\.?M\.?)?"
)
_ZONE = r" ?(?:Z|UTC|(?P<sign>[-+])(?P<hours>\d\d)(?::?(?P<minutes>\d\d))?)"
_TIME = re.compile(_CLOCK, re.ASCII | re.IGNORECASE)
_ORDINAL = r"(?:st|nd|rd|th)?"
_DATES = [
    re.compile(rf"{date}(?:(?:T|,? +){_CLOCK}(?:{_ZONE})?)?", re.ASCII | re.IGNORECASE)
    for date in (
        r"(?P<year>\d{4})(?P<by>[-/.])(?P<month>\d{1,2})(?P=by)(?P<day>\d{1,2})",
        r"(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})",
        r"(?P<one>\d{1,2})(?P<by>[-/])(?P<other>\d{1,2})(?P=by)(?P<year>\d{4})",
        rf"(?P<day>\d{{1,2}}){_ORDINAL}[-/. ] ?(?P<month>[A-Z]{{3,9}})[-/., ] ?(?P<year>\d{{4}})",
        rf"(?P<month>[A-Z]{{3,9}})[-. ] ?(?P<day>\d{{1,2}}){_ORDINAL}[-, ] ?(?P<year>\d{{4}})",
    )
]
_SHORT = re.compile(rf"\d{{1,2}}(?P<by>[-/.])\d{{1,2}}(?P=by)\d\d(?: {_CLOCK})?", re.ASCII | re.IGNORECASE)
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_NUMBER = {month[:3]: number for number, month in enumerate(_MONTHS, 1)}
"""Months by the beginnings of their English names."""


def are_times(texts: Mapping[str, int]) -> bool:
    """Are most cells dates or times? ``texts`` are the different ones with their counts."""
    # Most columns are no times, which their first cells show.
    if not any(map(_is_time, islice(texts, 20))):
        return False
    return 2 * sum(count for text, count in texts.items() if _is_time(text)) > sum(texts.values())


def find_order(texts: Mapping[str, int]) -> tuple[Order, str]:
    """The order of day and month that most cells prove, and a cell with two readings if none does."""
    day_first = month_first = 0
    unclear = ""
    for text, count in texts.items():
        if found := _DATES[2].fullmatch(text):
            day_first += count * (int(found["one"]) > 12)
            month_first += count * (int(found["other"]) > 12)
            unclear = unclear or text
    if not unclear:
        return "", ""
    order: Order = "month_first" if month_first > day_first else "day_first"
    return order, "" if day_first or month_first else unclear


def seconds(text: str, order: Order) -> float:
    """Seconds since 1970 of a date (UTC where it names no zone), since midnight of a time; NaN for others.

    Read are 2024-01-31, 31.1.2024, 31-Jan-2024 and Jan 31, 2024, with and without a time, and 31/1/2024 or
    1/31/2024 where there is an ``order``.
    """
    clock = _TIME.fullmatch(text)
    found = clock or next(filter(None, (each.fullmatch(text) for each in _DATES)), None)
    if found is None:
        return math.nan
    given = found.groupdict()
    micros = _micros(given)
    if clock or math.isnan(micros):
        return micros / 1e6
    if "one" in given:
        pair = given["one"], given["other"]
        given["day"], given["month"] = pair if order == "day_first" else pair[::-1]
    month = given["month"]
    number = int(month) if month.isdecimal() else _month(month.lower())
    zone = timezone(_offset(given)) if given["sign"] else UTC
    try:
        date = datetime(int(given["year"]), number, int(given["day"]), tzinfo=zone)
    except ValueError:
        return math.nan
    if ("one" in given and not order) or micros >= 86_400e6:
        return math.nan
    return (round(date.timestamp()) * 1_000_000 + micros) / 1e6


def have_short_years(texts: Iterable[str]) -> bool:
    """Are they dates such as 31.1.24, whose century nobody can tell?"""
    return all(map(_SHORT.fullmatch, texts))


def _is_time(text: str) -> bool:
    return not math.isnan(seconds(text, "day_first")) or not math.isnan(seconds(text, "month_first"))


def _month(name: str) -> int:
    number = _NUMBER.get(name[:3], 0)
    return number if number and name in (name[:3], "sept", _MONTHS[number - 1]) else 0


def _micros(given: Mapping[str, str | None]) -> float:
    """Microseconds since midnight; NaN for a time that no clock shows."""
    hour, minute, second = (int(given[each] or 0) for each in ("hour", "minute", "second"))
    if given["half"]:
        if not 1 <= hour <= 12:
            return math.nan
        hour = hour % 12 + 12 * (given["half"] in "pP")
    if minute > 59 or second > 59:
        return math.nan
    part = int((given["part"] or "").ljust(9, "0")) / 1000
    return (hour * 3600 + minute * 60 + second) * 1_000_000 + part


def _offset(given: Mapping[str, str | None]) -> timedelta:
    offset = timedelta(hours=int(given["hours"] or 0), minutes=int(given["minutes"] or 0))
    return -offset if given["sign"] == "-" else offset
