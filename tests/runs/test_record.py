"""``run.json``: whole at any moment, valid JSON, refused when it is something else."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from trainctl.errors import ConfigError
from trainctl.runs.record import RunRecord, now, read_record


def strictly(path: Path) -> Any:
    """Parse as other programs do: NaN and Infinity are not JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_record_has_the_keys_that_other_programs_read(tmp_path: Path) -> None:
    RunRecord(tmp_path, command="trainctl", git=None)
    content = strictly(tmp_path / "run.json")
    assert content["version"] == 1
    assert content["status"] == "running"
    keys = {
        "exit_code",
        "reason",
        "command",
        "engine",
        "git",
        "started",
        "ended",
        "parameters",
        "last",
        "best",
        "test",
    }
    assert keys <= set(content)


def test_a_record_never_holds_what_is_not_json(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    record.update(
        last={"val/loss": math.nan, "step": 3},
        best={"nested": [{"deep": (math.inf, 1.5)}]},
        test={"a": -math.inf},
        reason=math.nan,
    )
    content = strictly(tmp_path / "run.json")
    assert content["last"] == {"val/loss": "nan", "step": 3}
    assert content["best"] == {"nested": [{"deep": ["inf", 1.5]}]}
    assert content["test"] == {"a": "-inf"}
    assert content["reason"] == "nan"
    assert math.isnan(record.values["last"]["val/loss"])


@pytest.mark.slow
def test_a_reader_never_sees_half_a_record(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, padding="x" * 20000)
    done = threading.Event()
    seen: list[int] = []
    broken: list[str] = []

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(read_record(tmp_path)["number"])
            except KeyError:
                continue
            except ConfigError as error:
                broken.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        record.update(number=number)
    done.set()
    reader.join()
    assert not broken
    assert seen == sorted(seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json"]


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, name="mine")
    with pytest.raises(TypeError):
        record.update(name=object())
    assert strictly(tmp_path / "run.json")["name"] == "mine"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no run here"),
        (b"{", "is not valid"),
        (b"", "is not valid"),
        (b"\xff\xfe", "is not valid"),
        (b"[]", "version must be 1"),
        (b"null", "version must be 1"),
        (b"{}", "version must be 1"),
        (b'{"version": 2}', "version must be 1"),
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read_record(tmp_path)


def test_now_is_utc_to_the_second() -> None:
    from datetime import UTC, datetime, timedelta

    moment = datetime.fromisoformat(now())
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - moment) < timedelta(seconds=5)
