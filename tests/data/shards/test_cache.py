"""The cache stays within its limit whatever many processes do, and nothing that is read ever changes."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from trainctl.data.shards.cache import Cache
from trainctl.errors import ConfigError, StorageError

FORK = multiprocessing.get_context("fork")


def fill(size: int, letter: bytes, made: Path | None, file: BinaryIO) -> None:
    file.write(letter * size)
    if made is not None:
        with made.open("a") as log:
            log.write(letter.decode())


def content(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, 10**6, 0)
    finally:
        os.close(descriptor)


def fetch(cache: Cache, letter: str, size: int = 100, made: Path | None = None) -> bytes:
    return content(cache.fetch(letter * 32, size, partial(fill, size, letter.encode(), made)))


def held(cache: Cache) -> set[str]:
    return {path.name.replace(path.name[0] * 32, path.name[0]) for path in cache.folder.glob("[!.]*")}


def test_a_file_is_made_once_and_the_one_opened_longest_ago_goes(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path / "cache", 300), tmp_path / "made"
    for letter in "abcac":
        assert fetch(cache, letter, made=made) == letter.encode() * 100
        time.sleep(0.01)
    assert made.read_text() == "abc"
    fetch(cache, "d", made=made)
    assert held(cache) == {"a", "c", "d"}
    assert cache.open("b" * 32) is None


def test_what_is_read_stays_readable_when_it_is_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100)
    descriptor = cache.fetch("a" * 32, 100, partial(fill, 100, b"a", None))
    fetch(cache, "b")
    assert held(cache) == {"b"}
    assert os.fstat(descriptor).st_nlink == 0
    assert content(descriptor) == b"a" * 100


def test_a_file_that_is_larger_than_was_said_makes_room_too(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 300)
    fetch(cache, "a")
    fetch(cache, "b")
    assert content(cache.fetch("c" * 32, 10, partial(fill, 250, b"c", None))) == b"c" * 250
    assert held(cache) == {"c"}
    assert content(cache.fetch("d" * 32, 200, partial(fill, 50, b"d", None))) == b"d" * 50


def test_what_is_not_its_own_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_bytes(b"x" * 1000)
    cache = Cache(tmp_path, 100)
    fetch(cache, "a")
    fetch(cache, "b")
    assert held(cache) == {"b", "thesis.tex"}


def test_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.cache_gb=1e-07: a shard has 1\.01e-07 GB"):
        fetch(Cache(tmp_path, 100), "a", 101)


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def broken(file: BinaryIO) -> None:
        file.write(b"half")
        raise StorageError("the bucket is gone")

    cache = Cache(tmp_path / "cache", 100)
    with pytest.raises(StorageError, match="the bucket is gone"):
        cache.fetch("a" * 32, 100, broken)
    assert held(cache) == set()
    assert fetch(cache, "a") == b"a" * 100
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"dataset\.cache_dir=.*file"):
        fetch(Cache(tmp_path / "file" / "cache", 100), "a")


def _slow(cache: Cache) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        (cache.folder.parent / "begun").write_text("")
        time.sleep(60)

    cache.fetch("a" * 32, 100, write)


def test_what_a_killed_process_left_half_made_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 250)
    for again in ("a", "b"):
        process = FORK.Process(target=_slow, args=(cache,))
        process.start()
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        (tmp_path / "begun").unlink()
        assert held(cache) == {"a.part"}
        assert fetch(cache, again) == again.encode() * 100
        assert held(cache) == {again}
        (cache.folder / (again * 32)).unlink()


def _many(cache: Cache, made: Path, seed: int, wrong: Any) -> None:
    import random

    draw = random.Random(seed)
    for _ in range(150):
        letter = draw.choice("abcdef01")
        if fetch(cache, letter, made=made) != letter.encode() * 100:
            wrong.value += 1


def test_many_processes_share_it(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path / "cache", 450), tmp_path / "made"
    wrong = FORK.Value("i", 0)
    processes = [FORK.Process(target=_many, args=(cache, made, seed, wrong)) for seed in range(4)]
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        if (cache.folder / ".lock").exists():
            with (cache.folder / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # nothing is removed meanwhile
                found = [path for path in cache.folder.iterdir() if path.suffix != ".part"]
                most = max(most, sum(path.stat().st_size for path in found))
        time.sleep(0.001)
    assert [process.exitcode for process in processes] == [0] * 4
    assert wrong.value == 0
    assert 300 <= most <= 450
    assert not [name for name in held(cache) if name.endswith(".part")]
    assert len(made.read_text()) < 4 * 150  # some were there
