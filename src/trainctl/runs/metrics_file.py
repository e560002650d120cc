"""``metrics.jsonl`` read back: all rows, its evaluations only, or its last row. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trainctl.errors import ConfigError
from trainctl.runs import strict_json

_TAIL = 2**16
_BLOCK = 2**20
_LONGEST = 2**26
_EVALUATION = b'"samples_per_second"'


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
        if isinstance(values := _parsed(line), dict):
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
        if type(step) is not int or not isinstance(speed, int | float) or not 0 < speed < math.inf:
            return None
        total += max(0, step - before) * batch * batches / speed
        before = step
    return total if before else None


def evaluations(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ``metrics.jsonl`` that hold an evaluation on the validation split.

    Raises ConfigError as :func:`rows`.
    """
    try:
        # Not mapped into memory: a run that is resumed meanwhile makes the file shorter.
        with path.open("rb") as file:
            for content in _blocks(file):
                at = content.find(_EVALUATION)
                while at >= 0:
                    end = content.find(b"\n", at)
                    end = len(content) if end < 0 else end
                    values = _parsed(content[content.rfind(b"\n", 0, at) + 1 : end])
                    if isinstance(values, dict):
                        yield values
                    at = content.find(_EVALUATION, max(end, at + 1))
    except OSError:
        return


def _blocks(file: BinaryIO, size: float = math.inf) -> Iterator[bytes]:
    """The first ``size`` bytes in blocks of whole lines; the last line may lack its end."""
    while size > 0 and (block := file.read(int(min(_BLOCK, size)))):
        if not block.endswith(b"\n"):
            block += file.readline(_LONGEST)
            if len(block) > _LONGEST and not block.endswith(b"\n"):
                raise ConfigError(f"{file.name} is damaged: a line is longer than {_LONGEST} bytes")
        size -= len(block)
        yield block


def rows(
    path: Path, size: int | None = None, most_steps: int | None = None
) -> Iterator[dict[str, Any] | None]:
    """Every line of a ``metrics.jsonl`` in order, None for a damaged one.

    A last line that a kill has cut off is left out. Lines are parsed a block at a time: that takes a third of
    the time of one by one. Raises OSError where the file cannot be read, ConfigError for an endless line.

    Args:
        size: read the first ``size`` bytes only.
        most_steps: of more training steps than that, return a regular selection; evaluations are all there.
    """
    with path.open("rb") as file:
        stride, number = 1, 0
        if most_steps is not None:
            stride = max(1, sum(block.count(b"\n") for block in _blocks(file)) // most_steps)
            file.seek(0)
        for block in _blocks(file, os.fstat(file.fileno()).st_size if size is None else size):
            *lines, unfinished = block.split(b"\n")
            if _parsed(unfinished) is not None:
                lines.append(unfinished)
            yield from _parse_lines(
                [
                    line
                    for index, line in enumerate(lines, number)
                    if line.strip() and (index % stride == 0 or b'"train/loss"' not in line)
                ]
            )
            number += len(lines)


@dataclass(frozen=True)
class Recorded:
    """Losses and evaluations by step, each a row."""

    steps: Mapping[int, Mapping[str, Any]]
    evaluations: Mapping[int, Mapping[str, Any]]


def recorded(path: Path) -> Recorded:
    """What a ``metrics.jsonl`` holds. Raises ConfigError where it is missing or a line is damaged."""
    found = Recorded(steps := {}, evaluations := {})
    try:
        for number, row in enumerate(rows(path), 1):
            if row is None or type(row.get("step")) is not int:
                raise ConfigError(f"{path} line {number} is damaged")
            if "train/loss" in row:
                steps[row["step"]] = row
            elif any(key.startswith("val/") for key in row):
                evaluations[row["step"]] = row
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: there is nothing to compare with") from None
    return found


def _parse_lines(lines: Sequence[bytes]) -> list[dict[str, Any] | None]:
    try:
        block = b"[" + b",".join(lines) + b"]"
        values = strict_json.parse(block, strict_json.DEEPEST + len(lines))
    except ValueError:
        values = []
    if len(values) != len(lines):
        values = [_parsed(line) for line in lines]
    return [value if isinstance(value, dict) else None for value in values]


def _parsed(line: bytes) -> Any:
    try:
        return strict_json.parse(line)
    except ValueError:
        return None
