"""The run directory is taken by one run alone, describes it, and is found again."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.files import put
from trainctl.errors import ConfigError, DirectoryTakenError, StorageError
from trainctl.runs.directory import claim, claim_sweep, find, is_training, lock, point_latest
from trainctl.runs.record import RunRecord, read_record

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
@pytest.mark.parametrize("claim", [claim, claim_sweep])
def test_automatic_directories_are_all_different(tmp_path: Path, claim: Any, round_: int) -> None:
    got = at_once(lambda: claim(tmp_path / "outputs" / "12-00-00", named=False))
    names = {each.name for each in got}
    assert names == {"12-00-00", *(f"12-00-00-{number}" for number in range(2, THREADS + 1))}
    assert all(each.is_dir() for each in got)
    if claim is not claim_sweep:
        assert all(read_record(each)["status"] == "running" for each in got)


@pytest.mark.parametrize("round_", range(3))
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("claim", [claim, claim_sweep])
def test_a_named_directory_has_exactly_one_winner(
    tmp_path: Path, claim: Any, exists: bool, round_: int
) -> None:
    path = tmp_path / "deep" / "mine"
    if exists:
        path.mkdir(parents=True)
    got = at_once(lambda: claim(path, named=True))
    assert [each for each in got if isinstance(each, Path)] == [path]
    assert sum(isinstance(each, DirectoryTakenError) for each in got) == THREADS - 1


@pytest.mark.parametrize("claim", [claim, claim_sweep])
def test_a_named_directory_that_holds_something_is_refused(tmp_path: Path, claim: Any) -> None:
    put(tmp_path / "mine" / "thesis.txt", "years of work")
    with pytest.raises(DirectoryTakenError, match="is not empty") as caught:
        claim(tmp_path / "mine", named=True)
    assert caught.value.exit_code == 7
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_automatic_directory_avoids_what_holds_something(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "note").touch()
    assert claim(tmp_path / "x", named=False).name == "x-2"
    assert claim(tmp_path / "x", named=False).name == "x-3"


def test_a_claim_gives_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert claim(Path("here"), named=True) == tmp_path / "here"
    assert claim(Path("~/there"), named=True) == tmp_path / "home" / "there"


@pytest.mark.timeout(5)
@pytest.mark.parametrize("claim", [claim, claim_sweep])
@pytest.mark.parametrize("named", [True, False])
def test_a_place_that_cannot_be_made_is_a_storage_error(tmp_path: Path, claim: Any, named: bool) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match=r"creating the (run|sweep) directory failed") as caught:
        claim(tmp_path / "file" / "run", named=named)
    assert caught.value.exit_code == 5


def test_a_lock_is_one_process_s_and_that_of_the_directory_that_has_the_name(tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    run.mkdir()
    with lock(run):
        assert is_training(run)
        with (
            pytest.raises(DirectoryTakenError, match=f"training in it \\(process {os.getpid()} on "),
            lock(run),
        ):
            pass
    # Held for a moment only, as by a reader that looks.
    with ThreadPoolExecutor(1) as pool:
        begun = threading.Event()

        def hold() -> None:
            with lock(run):
                begun.set()
                time.sleep(0.05)

        holding = pool.submit(hold)
        begun.wait()
        with lock(run):
            holding.result()
    # Opened before the directory was renamed, locked after another one took its name.
    inner, names = fcntl.flock, []

    def renamed(descriptor: int, kind: int) -> None:
        if not names:
            names.append(run.rename(moved))
            run.mkdir()
        inner(descriptor, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", renamed)
        with lock(run):
            patch.undo()
            assert (is_training(run), is_training(moved)) == (True, False)


# ---------------------------------------------------------------------- found again


def make(path: Path, name: str | None = None, age: float = 0.0) -> Path:
    directory = claim(path, named=True)
    RunRecord(directory, name=name)
    moment = 1_700_000_000 - age
    os.utime(directory / "run.json", (moment, moment))
    return directory


def test_a_run_is_found_by_its_path(tmp_path: Path) -> None:
    directory = make(tmp_path / "outputs" / "a")
    assert find(directory) == directory
    assert find(str(directory)) == directory
    assert find("outputs/a") == directory


def test_last_is_the_newest_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        directory = make(tmp_path / "outputs" / name)
        point_latest(directory)
        assert find("last") == directory
    link = tmp_path / "outputs" / "latest"
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["a", "b", "latest"]


def test_last_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    directory = make(tmp_path / "elsewhere" / "a")
    point_latest(directory)
    assert find("last") == directory


def test_without_outputs_no_latest_is_made(tmp_path: Path) -> None:
    point_latest(make(tmp_path / "a"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("prepared", [False, True])
def test_last_without_a_run_is_an_error(tmp_path: Path, prepared: bool) -> None:
    if prepared:
        (tmp_path / "outputs").mkdir()
        (tmp_path / "outputs" / "latest").symlink_to("gone")
    with pytest.raises(ConfigError, match="last: there is no run"):
        find("last")


def test_a_run_is_found_by_name_the_newest_of_several(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    make(outputs / "1" / "a", "mine", age=100)
    newest = make(outputs / "1" / "b", "mine", age=10)
    make(outputs / "2" / "c", "mine", age=50)
    make(outputs / "2" / "d", "yours", age=0)
    broken = outputs / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    for name, content in (("deep", "[" * 9000 + "]" * 9000), ("long", "1" * 9000)):
        put(outputs / name / "run.json", content)
    (outputs / "pipe").mkdir()
    os.mkfifo(outputs / "pipe" / "run.json")
    assert find("mine") == newest


def test_a_name_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "outputs" / "a", "mine")
    with pytest.raises(ConfigError, match="yours: no such directory, and no run with that name"):
        find("yours")


def test_a_folder_without_a_run_gives_way_to_the_run_of_its_name(tmp_path: Path) -> None:
    shapes = tmp_path / "shapes"
    put(shapes / "circle" / "1.png", "a picture")
    assert find("shapes") == shapes
    named = make(tmp_path / "outputs" / "a", "shapes")
    assert find("shapes") == named
    assert find("./shapes") == find(shapes) == shapes
    assert find("outputs") == tmp_path / "outputs"
    (shapes / "run.json").touch()
    assert find("shapes") == shapes
