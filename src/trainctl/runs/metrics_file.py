"""``metrics.jsonl`` read back: all of it, its evaluations only, or its last line. No torch."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_TAIL = 2**16


def newest(path: Path) -> Mapping[str, Any]:
    """The last whole line of a ``metrics.jsonl``; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            return values
    return {}


def training_seconds(path: Path, settings: Mapping[str, Any]) -> float | None:
    """The time that the steps took: samples of an epoch over samples a second, as every evaluation has it.

    Only the evaluations are parsed: of a long run that is one line of a thousand. The last batch of an epoch
    counts as a whole one.
    """
    batch = settings.get("train.batch_size")
    batches = settings.get("train.accumulate", 1)
    if type(batch) is not int or type(batches) is not int:
        return None
    total, before = 0.0, 0
    for values in evaluations(path):
        step, speed = values.get("step"), values.get("samples_per_second")
        if type(step) is not int or not isinstance(speed, int | float) or speed <= 0:
            return None
        total += max(0, step - before) * batch * batches / speed
        before = step
    return total if before else None


def evaluations(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ``metrics.jsonl`` that hold an evaluation on the validation split."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.find(b'"samples_per_second"')
            while at >= 0:
                end = content.find(b"\n", at)
                line = content[content.rfind(b"\n", 0, at) + 1 : end if end >= 0 else len(content)]
                try:
                    values = json.loads(line)
                except ValueError:
                    values = None
                if isinstance(values, dict):
                    yield values
                at = content.find(b'"samples_per_second"', max(end, at + 1))
    except (OSError, ValueError):  # absent or empty
        return


def parse_lines(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """All lines of a ``metrics.jsonl``, and how many of them are no JSON object.

    All at once, as a list: a third of the time that one by one takes.
    """
    lines: Sequence[bytes] = [line for line in content.split(b"\n") if line.strip()]
    try:
        values = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        values = []
    if len(values) != len(lines):
        values = [_parsed(line) for line in lines]
    good = [value for value in values if isinstance(value, dict)]
    return good, len(lines) - len(good)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
