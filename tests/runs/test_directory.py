"""The run directory is taken by one run alone, describes it, and is found again."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.files import put
from trainctl.errors import ConfigError, DirectoryTakenError, StorageError
from trainctl.runs import directory as rundir

THREADS = 16


def at_once(work: Callable[[], Any]) -> list[Any]:
    """What 16 threads that start together get, exceptions included."""
    barrier = threading.Barrier(THREADS)

    def each(_: int) -> Any:
        barrier.wait()
        try:
            return work()
        except Exception as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(each, range(THREADS)))


@pytest.mark.parametrize("round_", range(3))
@pytest.mark.parametrize("claim", [rundir.claim, rundir.claim_sweep])
def test_automatic_directories_are_all_different(tmp_path: Path, claim: Any, round_: int) -> None:
    got = at_once(lambda: claim(tmp_path / "outputs" / "12-00-00", named=False))
    names = {each.name for each in got}
    assert names == {"12-00-00", *(f"12-00-00-{number}" for number in range(2, THREADS + 1))}
    assert all(each.is_dir() for each in got)
    if claim is rundir.claim:
        assert all(rundir.read_record(each)["status"] == "running" for each in got)


@pytest.mark.parametrize("round_", range(3))
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("claim", [rundir.claim, rundir.claim_sweep])
def test_a_named_directory_has_exactly_one_winner(
    tmp_path: Path, claim: Any, exists: bool, round_: int
) -> None:
    path = tmp_path / "deep" / "mine"
    if exists:
        path.mkdir(parents=True)
    got = at_once(lambda: claim(path, named=True))
    assert [each for each in got if isinstance(each, Path)] == [path]
    assert sum(isinstance(each, DirectoryTakenError) for each in got) == THREADS - 1


@pytest.mark.parametrize("claim", [rundir.claim, rundir.claim_sweep])
def test_a_named_directory_that_holds_something_is_refused(tmp_path: Path, claim: Any) -> None:
    put(tmp_path / "mine" / "thesis.txt", "years of work")
    with pytest.raises(DirectoryTakenError, match="is not empty") as caught:
        claim(tmp_path / "mine", named=True)
    assert caught.value.exit_code == 7
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_automatic_directory_avoids_what_holds_something(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "note").touch()
    assert rundir.claim(tmp_path / "x", named=False).name == "x-2"
    assert rundir.claim(tmp_path / "x", named=False).name == "x-3"


def test_a_claim_gives_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert rundir.claim(Path("here"), named=True) == tmp_path / "here"
    assert rundir.claim(Path("~/there"), named=True) == tmp_path / "home" / "there"


@pytest.mark.timeout(5)
@pytest.mark.parametrize("claim", [rundir.claim, rundir.claim_sweep])
@pytest.mark.parametrize("named", [True, False])
def test_a_place_that_cannot_be_made_is_a_storage_error(tmp_path: Path, claim: Any, named: bool) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match=r"making the (run|sweep) directory failed") as caught:
        claim(tmp_path / "file" / "run", named=named)
    assert caught.value.exit_code == 5


# ---------------------------------------------------------------------- run.json


def strictly(path: Path) -> Any:
    """Parse as other programs do: NaN and Infinity are not JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_record_has_the_keys_that_other_programs_read(tmp_path: Path) -> None:
    rundir.RunRecord(tmp_path, command="trainctl", git=None)
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
    record = rundir.RunRecord(tmp_path)
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


def test_a_reader_never_sees_half_a_record(tmp_path: Path) -> None:
    record = rundir.RunRecord(tmp_path, padding="x" * 20000)
    done = threading.Event()
    seen: list[int] = []
    broken: list[str] = []

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(rundir.read_record(tmp_path)["number"])
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
    record = rundir.RunRecord(tmp_path, name="mine")
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
        (b"[]", "another version"),
        (b"null", "another version"),
        (b"{}", "another version"),
        (b'{"version": 2}', "another version"),
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        rundir.read_record(tmp_path)


def test_now_is_utc_to_the_second() -> None:
    from datetime import UTC, datetime, timedelta

    moment = datetime.fromisoformat(rundir.now())
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - moment) < timedelta(seconds=5)


# ---------------------------------------------------------------------- found again


def make(path: Path, name: str | None = None, age: float = 0.0) -> Path:
    directory = rundir.claim(path, named=True)
    rundir.RunRecord(directory, name=name)
    moment = 1_700_000_000 - age
    os.utime(directory / "run.json", (moment, moment))
    return directory


def test_a_run_is_found_by_its_path(tmp_path: Path) -> None:
    directory = make(tmp_path / "outputs" / "a")
    assert rundir.find(directory) == directory
    assert rundir.find(str(directory)) == directory
    assert rundir.find("outputs/a") == directory


def test_last_is_the_newest_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        directory = make(tmp_path / "outputs" / name)
        rundir.point_latest(directory)
        assert rundir.find("last") == directory
    link = tmp_path / "outputs" / "latest"
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["a", "b", "latest"]


def test_last_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    directory = make(tmp_path / "elsewhere" / "a")
    rundir.point_latest(directory)
    assert rundir.find("last") == directory


def test_without_outputs_no_latest_is_made(tmp_path: Path) -> None:
    rundir.point_latest(make(tmp_path / "a"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("prepared", [False, True])
def test_last_without_a_run_is_an_error(tmp_path: Path, prepared: bool) -> None:
    if prepared:
        (tmp_path / "outputs").mkdir()
        (tmp_path / "outputs" / "latest").symlink_to("gone")
    with pytest.raises(ConfigError, match="last: there is no run"):
        rundir.find("last")


def test_a_run_is_found_by_name_the_newest_of_several(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    make(outputs / "1" / "a", "mine", age=100)
    newest = make(outputs / "1" / "b", "mine", age=10)
    make(outputs / "2" / "c", "mine", age=50)
    make(outputs / "2" / "d", "yours", age=0)
    broken = outputs / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    assert rundir.find("mine") == newest


def test_a_name_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "outputs" / "a", "mine")
    with pytest.raises(ConfigError, match="yours: no such directory, and no run of that name"):
        rundir.find("yours")
