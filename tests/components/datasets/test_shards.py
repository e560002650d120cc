"""Shards give the samples that are in them, however they are read; what is damaged is named."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pytest
import torch
from pyarrow import parquet

from tests.helpers.bucket import NAME, Bucket, bucket_server
from tests.helpers.program import run, start
from tests.helpers.ranks import assert_same_run
from tests.helpers.ranks import warm_ranks as warm_ranks
from tests.helpers.runs import EVERY, killed_after, same_end
from tests.helpers.shards import EACH, SHARDS, digit_images, digit_shards, members, png, tar
from trainctl.config.settings import Component
from trainctl.data import Data
from trainctl.data.shards import reader as readers
from trainctl.data.shards import tar as tars
from trainctl.errors import ConfigError, MissingDataError, StorageError
from trainctl.training.prepare_data import build_data

TOTAL = SHARDS * EACH
SMALL = {"size": (8, 8), "channels": 1}
RUN = (
    *("dataset=shards", "dataset.size=[8,8]", "dataset.channels=1", "dataset.val=20", "batch_size=10"),
    *("model.hidden=[8]", "model.dropout=0.3", "epochs=2", "threads=1"),
)
STEPS = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return digit_shards(tmp_path / "shards")


def read(path: object, tmp_path: Path, val: float | int = 0, **arguments: Any) -> Data:
    given = {"path": str(path), "cache_dir": str(tmp_path / "cache"), **SMALL, **arguments}
    return build_data(Component("dataset", "shards", given, {"val": val, "split_seed": 0}))


def samples(split: Any) -> torch.Tensor:
    return torch.stack([split.load(item) for item in split.items])


def sent(data: Data) -> Any:
    """What loads a sample of train, as a worker gets it."""
    split: Any = data.train
    return pickle.loads(pickle.dumps(split.load))


def assert_digits(data: Data) -> None:
    images, targets = digit_images(TOTAL)
    assert torch.equal(samples(data.train), images)
    assert torch.equal(data.train.targets, targets)


# ------------------------------------------------------------------------ what is in them


def test_samples_of_tar_files_are_those_that_were_put_in(folder: Path, tmp_path: Path) -> None:
    data = read(folder, tmp_path)
    assert (data.task, data.output_size, data.input_shape, data.classes) == (
        "classification",
        10,
        (1, 8, 8),
        (),
    )
    assert_digits(data)
    assert "6 shards" in data.note
    assert "png → cls; indexed" in data.note
    assert_digits(read(f"file://{folder}", tmp_path, window=2))
    assert_digits(read(folder / "part-*.tar", tmp_path))


@pytest.mark.parametrize(
    ("targets", "arguments", "task", "first"),
    [
        ({"txt": lambda digit: f"no. {digit:02d}\n"}, {}, "classification", 0),
        ({"json": lambda digit: json.dumps({"label": digit})}, {}, "classification", 0),
        ({"json": lambda digit: json.dumps({"a": 1, "of": digit / 2})}, {"target": "of"}, "regression", 0.0),
        ({"cls": str}, {"task": "regression"}, "regression", 0.0),
        ({"half.txt": lambda digit: f"{digit / 2}", "cls": str}, {"target": "half.txt"}, "regression", 0.0),
    ],
)
def test_targets_are_classes_texts_or_values(
    targets: Any, arguments: dict[str, Any], task: str, first: float, tmp_path: Path
) -> None:
    shards = tar(tmp_path / "one.tar", members(range(40), targets))
    data = read(shards, tmp_path, **arguments)
    digits = digit_images(40)[1]
    assert data.task == task
    assert data.classes == (tuple(f"no. {digit:02d}" for digit in range(10)) if "txt" in targets else ())
    known = digits if task == "classification" else digits.double()[:, None]
    halved = "target" in arguments
    assert torch.equal(data.train.targets, known / 2 if halved else known)


def test_arrays_in_a_tar_are_taken_as_they_are(tmp_path: Path) -> None:
    def made() -> Iterator[tuple[str, bytes]]:
        for number in range(12):
            stored = io.BytesIO()
            numpy.save(stored, numpy.full((2, 3), number, dtype=numpy.float64))
            yield f"{number}.npy", stored.getvalue()
            yield f"{number}.cls", str(number % 2).encode()

    data = read(tar(tmp_path / "one.tar", made()), tmp_path)
    assert data.input_shape == (2, 3)
    inputs = data.transform(samples(data.train))
    assert inputs.dtype == torch.float32
    assert inputs[:, 0, 0].tolist() == list(range(12))


def parquet_shards(folder: Path) -> Path:
    images, targets = digit_images(TOTAL)
    folder.mkdir()
    for shard in range(3):
        rows = range(shard * 40, shard * 40 + 40)
        table = {
            "image": [{"bytes": png(images[row] // 15), "path": None} for row in rows],
            "label": targets[rows.start : rows.stop].tolist(),
            "ink": [float(images[row].float().mean()) for row in rows],
            "rows": [images[row, 0, 3].tolist() for row in rows],
            "parity": [("even", "odd")[int(targets[row]) % 2] for row in rows],
        }
        parquet.write_table(pyarrow.table(table), folder / f"part-{shard}.parquet", row_group_size=16)
    return folder


def test_samples_of_parquet_are_those_that_were_put_in(tmp_path: Path) -> None:
    folder = parquet_shards(tmp_path / "shards")
    for place in (folder, f"file://{folder}"):
        assert_digits(read(place, tmp_path))
        assert_digits(read(place, tmp_path))  # from the cache
    images, targets = digit_images(TOTAL)
    numbers = read(folder, tmp_path, inputs=["ink", "label"], target="parity")
    assert numbers.classes == ("even", "odd")
    assert torch.equal(samples(numbers.train)[:, 1], targets.float())
    lists = read(folder, tmp_path, inputs=["rows"], target="ink")
    assert (lists.task, lists.input_shape) == ("regression", (8,))
    assert torch.equal(samples(lists.train), images[:, 0, 3].float())


def test_splits_come_from_names_patterns_or_are_held_out(folder: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    for split, numbers in (("train", (0, 1, 2)), ("valid", (3,)), ("test", (4, 5))):
        for number in numbers:
            place = named / split if split == "test" else named
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / f"part-{number:03d}.tar", place / f"{split}-{number}.tar")
    images, targets = digit_images(TOTAL)
    parts = {"train": slice(0, 60), "val": slice(60, 80), "test": slice(80, 120)}
    patterns = {
        "path": named / "train-*.tar",
        "val_path": str(named / "valid-*.tar"),
        "test_path": str(named / "test"),
    }
    for data in (read(named, tmp_path), read(**patterns, tmp_path=tmp_path)):  # type: ignore[arg-type]
        for split, part in parts.items():
            assert torch.equal(samples(getattr(data, split)), images[part])
            assert torch.equal(getattr(data, split).targets, targets[part])
    held = read(folder, tmp_path, 25, window=2)
    val: Any = held.val
    assert len({item // EACH for item in val.items}) == 2  # whole shards, and a part of one
    assert len(val) == 25
    assert sorted([*val.items, *held.train.items]) == list(range(TOTAL))  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="has shards for test, too"):
        read(named, tmp_path, test_path=str(folder))


# ------------------------------------------------------------------------ the index


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that are read for the index."""
    seen: list[str] = []
    real = tars.indexed

    def counting(descriptor: int, where: str, wanted: Any) -> Any:
        seen.append(Path(where).name)
        return real(descriptor, where, wanted)

    monkeypatch.setattr(tars, "indexed", counting)
    return seen


def test_the_index_is_built_once_and_only_what_is_new_is_read(
    folder: Path, tmp_path: Path, indexed: list[str]
) -> None:
    assert "; indexed" in read(folder, tmp_path).note
    assert sorted(indexed) == [f"part-{number:03d}.tar" for number in range(SHARDS)]
    indexed.clear()
    assert "index cached" in read(folder, tmp_path).note
    assert indexed == []
    tar(folder / "part-100.tar", members(range(TOTAL, TOTAL + 5)))
    tar(folder / "part-001.tar", members(range(3)))
    data = read(folder, tmp_path)
    assert sorted(indexed) == ["part-001.tar", "part-100.tar"]
    assert len(data.train) == TOTAL - EACH + 3 + 5
    images = digit_images(TOTAL + 5)[0]
    assert torch.equal(samples(data.train)[EACH : EACH + 3], images[:3])
    assert torch.equal(samples(data.train)[-5:], images[-5:])


def test_an_interrupted_build_goes_on(folder: Path, tmp_path: Path, indexed: list[str]) -> None:
    (folder / "part-005.tar").write_bytes(b"no archive" * 200)
    with pytest.raises(ConfigError, match=r"part-005\.tar is damaged"):
        read(folder, tmp_path)
    done = set(indexed) - {"part-005.tar"}
    indexed.clear()
    digit_shards(tmp_path / "again")
    shutil.copy(tmp_path / "again" / "part-005.tar", folder / "part-005.tar")
    assert_digits(read(folder, tmp_path))
    assert done
    assert not done & set(indexed)


def test_a_damaged_index_is_built_again(folder: Path, tmp_path: Path) -> None:
    read(folder, tmp_path)
    for path in (tmp_path / "cache" / "index").rglob("*.safetensors"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:100])
    assert_digits(read(folder, tmp_path))


# ------------------------------------------------------------------------ what is damaged


def cut(amount: int) -> Callable[[Path], object]:
    """Leave out what is after the last member, and ``amount`` bytes more."""

    def change(path: Path) -> None:
        with tarfile.open(path) as archive:
            list(archive)
            end = archive.offset
        path.write_bytes(path.read_bytes()[: end - amount])

    return change


def replaced(made: Callable[[], Any]) -> Callable[[Path], object]:
    return lambda path: tar(path, made())


def twice(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def packed(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut(0), r"part-001\.tar is cut off, or damaged, at byte"),
        (cut(-100), r"part-001\.tar is cut off, or damaged, at byte"),
        (cut(1024), r"part-001\.tar is cut off, or damaged, at byte"),
        (cut(700), r"part-001\.tar is cut off, or damaged, at byte"),
        (cut(1100), r"part-001\.tar is damaged: unexpected end of data"),
        (twice, r"part-001\.tar goes on after its end: it is several"),
        (packed, r"part-001\.tar is damaged"),
        (lambda path: path.write_bytes(b""), r"part-001\.tar is damaged: empty file"),
        (replaced(list), r"part-001\.tar has no samples"),
        (replaced(lambda: [("a.png", b"")]), r"sample a has no target \(cls, txt, json\); it has png"),
        (replaced(lambda: [("a.cls", b"1")]), r"part-001\.tar: sample a has no input .*; it has cls"),
        (replaced(lambda: [("a.png", b""), ("a.png", b"")]), r"two members a\.png"),
        (replaced(lambda: [("a.png", b""), ("a.jpg", b""), ("a.cls", b"")]), r"several inputs: png or jpg"),
        (replaced(lambda: [("a.png", b""), ("a.cls", b" ")]), r"sample a\.cls is empty"),
        (replaced(lambda: [("a.png", b""), ("a.cls", b"\xff")]), r"sample a\.cls is no UTF-8"),
        (replaced(lambda: [("a.png", b""), ("a.json", b"{")]), r"sample a\.json is damaged"),
        (replaced(lambda: [("a.png", b""), ("a.json", b'{"b": 1}')]), r"a\.json has no field .*; it has b"),
        (replaced(lambda: [("a.png", b""), ("a.txt", b"one")]), r"1\.tar has other samples than .*png → txt"),
        (replaced(lambda: [("a.npy", b""), ("a.cls", b"1")]), r"1\.tar has other samples than .*npy → cls"),
        (replaced(lambda: [("a.png", b""), ("a.cls", b"999")]), r"a target is 999, but 101 samples"),
    ],
)  # fmt: skip
def test_a_damaged_shard_is_refused_by_its_name(
    damage: Callable[[Path], object], message: str, folder: Path, tmp_path: Path
) -> None:
    damage(folder / "part-001.tar")
    with pytest.raises(ConfigError, match=message):
        read(folder, tmp_path)


def test_a_broken_image_is_named_by_shard_and_member(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "part-001.tar").read_bytes())
    with tarfile.open(folder / "part-001.tar") as archive:
        member = archive.getmember("digits/00025.png")
    content[member.offset_data : member.offset_data + member.size] = bytes(member.size)
    (folder / "part-001.tar").write_bytes(content)
    for place in (folder, f"file://{folder}"):
        data = read(place, tmp_path)
        data.train.load(24)  # type: ignore[union-attr]
        with pytest.raises(ConfigError, match=r"part-001\.tar: digits/00025\.png is broken"):
            data.train.load(25)  # type: ignore[union-attr]


@pytest.mark.parametrize("remote", [False, True])
def test_a_shard_that_is_changed_during_the_run_is_refused(
    remote: bool, folder: Path, tmp_path: Path
) -> None:
    place = f"file://{folder}" if remote else folder
    data = read(place, tmp_path)
    shutil.rmtree(tmp_path / "cache" / "files", ignore_errors=True)
    other = sent(data)
    tar(folder / "part-002.tar", members(range(EACH)))
    other(0)
    with pytest.raises(ConfigError, match=r"part-002\.tar is not the one that was listed at the start"):
        other(2 * EACH + 1)
    (folder / "part-003.tar").unlink()
    with pytest.raises(StorageError, match=r"part-003\.tar cannot be read"):
        other(3 * EACH + 1)


def test_what_is_not_there_is_named_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    for place, remedy in (
        (tmp_path / "none", "folder"),
        (tmp_path / "part-{000..005}.tar", r"write \*"),
        (f"file://{tmp_path}/none", "folder"),
    ):
        with pytest.raises(MissingDataError, match="there are no shards") as caught:
            read(place, tmp_path)
        assert remedy.replace("\\", "") in caught.value.problems[0].remedy
    with pytest.raises(MissingDataError, match="is not here") as caught:
        read("s3://bucket/shards", tmp_path)
    assert caught.value.problems[0].remedy == "dataset.download=true reads it"
    shutil.copy(parquet_shards(tmp_path / "tables") / "part-0.parquet", folder)
    with pytest.raises(ConfigError, match="has tar and Parquet files"):
        read(folder, tmp_path)


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        ({"a": [1.0, 2.0], "label": [0, 1]}, {"target": "lable"}, "has no column lable"),
        ({"a": [1.0, 2.0]}, {}, "no column with the usual name of a target"),
        ({"a": [1.0, None], "label": [0, 1]}, {}, r"row 1 has no a"),
        ({"a": [1.0, 2.0], "label": [0, None]}, {}, r"row 1 has no label"),
        ({"a": ["x", "y"], "label": [0, 1]}, {"inputs": ["a"]}, "column a is string"),
        ({"a": [1.0, 2.0], "b": [[1], [2]], "label": [0, 1]}, {}, "inputs must be one column of images"),
        ({"a": [1.0, float("nan")], "label": [0, 1]}, {}, r"part\.parquet: row 1 is broken: a number is not"),
        ({"a": [1.0, 2.0], "label": [[0], [1]]}, {}, "label is list<.*neither a number nor a text"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(
    table: dict[str, Any], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    parquet.write_table(pyarrow.table(table), tmp_path / "part.parquet")
    with pytest.raises(ConfigError, match=message):
        samples(read(tmp_path / "part.parquet", tmp_path, **arguments).train)


# ------------------------------------------------------------------------ the cache


def test_a_cache_that_cannot_hold_two_windows_is_refused(folder: Path, tmp_path: Path) -> None:
    size = max(path.stat().st_size for path in folder.iterdir())
    place = f"file://{folder}"
    with pytest.raises(ConfigError, match=r"does not hold two windows of 2 shards") as caught:
        read(place, tmp_path, window=2, cache_gb=3.5 * size / 1e9)
    assert "lower dataset.window" in caught.value.problems[0].remedy
    assert_digits(read(place, tmp_path, window=2, cache_gb=4.5 * size / 1e9))
    with pytest.raises(ConfigError, match="does not hold all shards"):
        read(parquet_shards(tmp_path / "tables"), tmp_path, cache_gb=1.4e-5)
    with pytest.raises(ConfigError, match=r"a shard has"):
        read(place, tmp_path / "other", window=1, cache_gb=0.5 * size / 1e9)


def test_samples_are_read_one_by_one_where_the_cache_would_thrash(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = max(path.stat().st_size for path in folder.iterdir())
    data = read(f"file://{folder}", tmp_path, window=0, cache_gb=1.5 * size / 1e9)
    copied: list[str] = []
    monkeypatch.setattr(readers.Source, "copy", lambda *given: copied.append("copied"))
    assert_digits(data)
    assert copied == []


def test_what_is_in_the_cache_is_read_from_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read(f"file://{folder}", tmp_path)
    for method in ("read", "copy"):
        monkeypatch.setattr(readers.Source, method, lambda *given: pytest.fail("the bucket was asked"))
    assert torch.equal(sent(data)(25), digit_images(26)[0][25])
    assert_digits(data)


def test_one_sample_of_a_shard_is_no_reason_to_copy_it(folder: Path, tmp_path: Path) -> None:
    data = read(f"file://{folder}", tmp_path, window=2)
    shutil.rmtree(tmp_path / "cache" / "files")
    fresh = sent(data)
    fresh(0)
    assert not (tmp_path / "cache" / "files").exists()
    fresh(1)
    assert len([path for path in (tmp_path / "cache" / "files").iterdir() if path.name[0] != "."]) == 1
    fresh.ahead([4, 5])
    until = time.monotonic() + 20
    while len(list((tmp_path / "cache" / "files").glob("[!.]*[!t]"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(list((tmp_path / "cache" / "files").glob("[!.]*"))) == 3


# ------------------------------------------------------------------------ runs


def ways(folder: Path) -> dict[str, tuple[str, ...]]:
    """Local shards, all mixed; and shards behind a URL, with a cache smaller than they are."""
    size = max(path.stat().st_size for path in folder.iterdir())
    bounded = (f"dataset.path=file://{folder}", "dataset.window=2", f"dataset.cache_gb={4.2 * size / 1e9}")
    return {"local": (f"dataset.path={folder}",), "url": bounded}


@pytest.mark.parametrize("way", ["local", "url"])
def test_a_run_is_the_same_from_tensors_and_goes_on_to_the_same_bits(
    way: str, folder: Path, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    words = (*RUN, *ways(folder)[way])
    outcome = trainctl(*words, "loader.workers=0", *EVERY)
    assert outcome.code == 0, outcome.err
    cut_off = killed_after(tmp_path / "run", 13)  # an epoch has 10 steps
    # Another cache is no other data.
    outcome = trainctl("resume", "cut", "loader.workers=0", "dataset.cache_gb=1", "dataset.cache_dir=other")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "other" / "index").is_dir()
    assert same_end(tmp_path / "run", cut_off, STEPS)
    outcome = trainctl(*words, "loader=resident", "hydra.run.dir=resident", *EVERY[:3])
    assert outcome.code == 0, outcome.err
    assert same_end(tmp_path / "run", tmp_path / "resident", STEPS)
    used = Path(os.environ["XDG_CACHE_HOME"]) / "trainctl" / "shards" / "files"
    held = sum(path.stat().st_size for path in used.iterdir()) if used.exists() else 0
    assert held <= 4.2 * max(path.stat().st_size for path in folder.iterdir())
    assert bool(held) == (way == "url")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["local", "url"])
def test_workers_change_nothing_when_a_run_is_killed_and_resumed(
    way: str, folder: Path, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    words = (*RUN, *ways(folder)[way])
    assert trainctl(*words, "loader.workers=2", *EVERY).code == 0
    for workers in (0, 1, 3):
        cut_off = killed_after(tmp_path / "run", 7)
        assert trainctl("resume", "cut", f"loader.workers={workers}").code == 0
        assert same_end(tmp_path / "run", cut_off, STEPS)


@pytest.mark.parametrize("way", ["local", pytest.param("url", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("warm_ranks")
def test_two_devices_train_as_one(
    way: str, folder: Path, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    words = (*RUN, *ways(folder)[way], "model.dropout=0", "loader.workers=0", "strategy.timeout=60")
    for name, devices, more in (("one", 1, ()), ("two", 2, ()), ("part", 2, ("train.max_steps=13",))):
        outcome = trainctl(*words, *more, *EVERY[:3], f"devices={devices}", f"hydra.run.dir={name}")
        assert outcome.code == 0, outcome.err
    assert_same_run("one", "two")
    assert trainctl("resume", "part", "train.max_steps=null").code == 0
    assert same_end(tmp_path / "two", tmp_path / "part", STEPS)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bits_with_other_workers(
    folder: Path, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    words = (*RUN, *ways(folder)["url"], "epochs=30", "checkpoint.every_steps=1", "checkpoint.keep_last=2")
    words = (*words, "display.mode=none")
    assert trainctl(*words, "loader.workers=0", "hydra.run.dir=whole").code == 0
    process = start(*words, "loader.workers=2", "hydra.run.dir=killed", cwd=tmp_path)
    checkpoints = tmp_path / "killed" / "checkpoints"
    until = time.monotonic() + 100
    while not any(checkpoints.glob("step-0000002[2-9]")) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not any(checkpoints.glob("step-00000300"))
    outcome = trainctl("resume", "killed", "loader.workers=3")
    assert outcome.code == 0, outcome.err
    assert same_end(tmp_path / "whole", tmp_path / "killed", 300)


def test_another_window_is_another_order_and_refused_on_resume(
    folder: Path, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    words = (*RUN, f"dataset.path={folder}", "dataset.window=2", "loader.workers=0")
    assert trainctl(*words, *EVERY).code == 0
    killed_after(tmp_path / "run", 7)
    outcome = trainctl("resume", "cut", "dataset.window=3")
    assert outcome.code == 2
    assert "dataset.window: 2 → 3: the run so far was trained on different data" in outcome.err


@pytest.mark.slow
def test_every_verb_takes_a_run_on_shards(folder: Path, trainctl: Callable[..., Any], tmp_path: Path) -> None:
    words = (*RUN, f"dataset.path={folder}", f"dataset.test_path={folder}")
    assert trainctl(*words, "loader.workers=2", "hydra.run.dir=run").code == 0
    assert "the same as recorded" in trainctl("eval", "run").out
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "one.png").write_bytes(png(digit_images(1)[0][0] // 15))
    assert trainctl("predict", "run", "--input", "new", "--output", "found.csv").code == 0
    assert trainctl("export", "run", "--format", "torch", "--output", "model.pt2").code == 0
    assert trainctl("smoke", *words[:3], f"dataset.path={folder}").code == 0


# ------------------------------------------------------------------------ a bucket


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with bucket_server() as found:
        yield found


@pytest.fixture
def bucket(server: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket with the shards."""
    import fsspec

    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    server.fault = lambda request: ""
    filesystem = server.filesystem(fsspec)
    for key in server.keys():  # noqa: SIM118 - a method
        filesystem.rm_file(f"{NAME}/{key}")
    for path in folder.iterdir():
        filesystem.put_file(str(path), f"{NAME}/shards/{path.name}")
    server.asked.clear()
    return server


@pytest.mark.slow
def test_shards_on_a_bucket_train_as_local_ones(
    bucket: Bucket, folder: Path, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    words = (*RUN, *ways(folder)["url"])
    assert trainctl(*words, "loader.workers=0", *EVERY).code == 0
    there = (f"dataset.path=s3://{NAME}/shards", "dataset.download=true")
    # A process of its own: the server that forks workers has the environment that it was started with.
    done = run(*words, *there, "loader.workers=2", *EVERY[:3], "hydra.run.dir=bucket", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert same_end(tmp_path / "run", tmp_path / "bucket", STEPS)
    cut_off = killed_after(tmp_path / "bucket", 13)
    outcome = trainctl("resume", "cut", "loader.workers=0")
    assert (outcome.code, "dataset.download would open a connection" in outcome.err) == (3, True)
    outcome = trainctl("resume", "cut", "loader.workers=0", "--trust-plugins")
    assert outcome.code == 0, outcome.err
    assert same_end(tmp_path / "run", cut_off, STEPS)
    assert {line.split()[0] for line in bucket.asked} <= {"GET", "HEAD"}


@pytest.mark.slow
def test_a_bucket_that_fails_for_a_while_is_asked_again_and_then_named(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainctl.data.shards.source._WAIT", 0.01)
    left = [3]

    def fails(request: dict[str, Any]) -> str:
        left[0] -= request["REQUEST_METHOD"] == "GET"
        return "500" if left[0] >= 0 else ""

    place = f"s3://{NAME}/shards"
    bucket.fault = fails
    data = read(place, tmp_path, window=2, download=True)
    assert_digits(data)
    shutil.rmtree(tmp_path / "cache" / "files")
    for kind in ("500", "refused"):
        bucket.fault = lambda request, kind=kind: kind
        with pytest.raises(StorageError, match=r"s3://bucket/shards.* cannot be read"):
            read(place, tmp_path / "other", window=2, download=True)
        fresh = sent(data)
        with pytest.raises(StorageError, match=r"part-000\.tar cannot be read"):
            fresh(0)
    assert (
        not list((tmp_path / "cache" / "files").glob("*.part"))
        if (tmp_path / "cache" / "files").exists()
        else True
    )


@pytest.mark.slow
def test_a_bucket_that_dies_during_the_run_ends_it_with_the_code_of_storage(
    bucket: Bucket, folder: Path, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    words = (*RUN, *ways(folder)["url"], f"dataset.path=s3://{NAME}/shards", "dataset.download=true")
    assert trainctl(*words, "loader.workers=0", "epochs=1", "hydra.run.dir=first").code == 0  # the index
    shutil.rmtree(Path(os.environ["XDG_CACHE_HOME"]) / "trainctl" / "shards" / "files")
    asked = [0]

    def dies(request: dict[str, Any]) -> str:
        asked[0] += 1
        return "refused" if asked[0] > 40 else ""

    bucket.fault = dies
    done = run(*words, "loader.workers=2", *EVERY, "epochs=30", cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert "cannot be read: Forbidden" in done.stderr
    assert "Traceback" not in done.stderr
    assert any((tmp_path / "run" / "checkpoints").iterdir())
