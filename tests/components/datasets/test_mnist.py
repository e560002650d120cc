"""MNIST: decoded once, then cached; malformed and missing files are named."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainctl.components.datasets.mnist import mnist
from trainctl.components.tasks._base import with_targets
from trainctl.data.types import Data
from trainctl.errors import ConfigError, MissingDataError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


def idx(tensor: Tensor, magic: int | None = None) -> bytes:
    """A tensor of bytes in the IDX format."""
    sizes = tensor.shape
    head = struct.pack(">I", 0x0800 + len(sizes) if magic is None else magic)
    return head + struct.pack(f">{len(sizes)}I", *sizes) + bytes(tensor.flatten().tolist())


def images(count: int, side: int = 28) -> Tensor:
    return (torch.arange(count * side * side) * 7 % 256).to(torch.uint8).reshape(count, side, side)


def labels(count: int) -> Tensor:
    return (torch.arange(count) % 10).to(torch.uint8)


def write(path: Path, content: bytes, zipped: bool) -> None:
    if zipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def make(folder: Path, zipped: bool = False) -> Path:
    """A data root with six training and four test images; returns the folder of the files."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    write(raw / TRAIN_IMAGES, idx(images(6)), zipped)
    write(raw / TRAIN_LABELS, idx(labels(6)), zipped)
    write(raw / TEST_IMAGES, idx(images(4)), zipped)
    write(raw / TEST_LABELS, idx(labels(4)), zipped)
    return raw


def same(first: Data, second: Data) -> bool:
    assert first.test is not None
    assert second.test is not None
    pairs = [(first.train, second.train), (first.test, second.test)]
    return all(
        torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)
        for one, other in pairs
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("zipped", [False, True])
def test_the_files_are_decoded_then_cached(tmp_path: Path, zipped: bool) -> None:
    make(tmp_path, zipped)
    first = mnist(str(tmp_path))
    assert first.note.startswith("decoded and cached in ")
    assert torch.equal(first.train.inputs, images(6).unsqueeze(1))
    assert first.test is not None
    assert torch.equal(first.test.inputs, images(4).unsqueeze(1))
    assert torch.equal(first.train.targets, labels(6).long())
    assert torch.equal(first.test.targets, labels(4).long())
    assert first.train.inputs.dtype == torch.uint8
    assert first.train.targets.dtype == torch.int64
    assert first.input_shape == (1, 28, 28)
    again = mnist(str(tmp_path))
    assert again.note == "cached"
    assert same(first, again)
    assert names(tmp_path / "MNIST") == ["raw", "trainctl-1.safetensors"]


def test_the_root_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path / "mine")
    assert len(mnist("~/mine").train) == 6


@pytest.mark.parametrize("zipped", [False, True])
def test_the_cache_is_renewed_when_a_source_changes(tmp_path: Path, zipped: bool) -> None:
    raw = make(tmp_path, zipped)
    mnist(str(tmp_path))
    write(raw / TRAIN_LABELS, idx(9 - labels(6)), zipped)
    (changed,) = raw.glob(f"{TRAIN_LABELS}*")
    later = changed.stat().st_mtime + 5
    os.utime(changed, (later, later))
    renewed = mnist(str(tmp_path))
    assert renewed.note.startswith("decoded")
    assert torch.equal(renewed.train.targets, 9 - labels(6).long())
    assert mnist(str(tmp_path)).note == "cached"


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_torn_cache_is_decoded_again_and_replaced(tmp_path: Path, damage: bytes | None) -> None:
    make(tmp_path)
    first = mnist(str(tmp_path))
    cache = tmp_path / "MNIST" / "trainctl-1.safetensors"
    cache.write_bytes(cache.read_bytes()[:-100] if damage is None else damage)
    again = mnist(str(tmp_path))
    assert again.note.startswith("decoded")
    assert same(first, again)
    assert mnist(str(tmp_path)).note == "cached"


@contextmanager
def without_privileges() -> Iterator[None]:
    """Work as an ordinary user, whom the permissions of a folder stop."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def readonly_root() -> Iterator[Path]:
    """A data root that may be read and not written."""
    import torchvision.datasets.mnist  # noqa: F401 - read before the privileges go

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    make(folder)
    (folder / "MNIST").chmod(0o555)
    yield folder
    (folder / "MNIST").chmod(0o755)
    shutil.rmtree(folder)


def test_a_root_that_cannot_be_written_is_read_every_time(readonly_root: Path) -> None:
    for _ in range(2):
        with without_privileges():
            data = mnist(str(readonly_root))
        assert data.note.startswith("decoded; not cached: ")
        assert len(data.train) == 6
    assert names(readonly_root / "MNIST") == ["raw"]


def test_a_read_only_root_with_a_cache_uses_it(readonly_root: Path) -> None:
    (readonly_root / "MNIST").chmod(0o755)
    mnist(str(readonly_root))
    (readonly_root / "MNIST" / "trainctl-1.safetensors").chmod(0o644)
    (readonly_root / "MNIST").chmod(0o555)
    with without_privileges():
        assert mnist(str(readonly_root)).note == "cached"


def test_a_file_system_that_is_mounted_read_only_is_no_error(
    readonly_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, unlike in a folder without permission, even removing what does not exist fails."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with without_privileges():
        data = mnist(str(readonly_root))
    assert data.note.startswith("decoded; not cached: ")


def test_others_may_read_the_cache_as_they_may_read_the_files(tmp_path: Path) -> None:
    """A data root is often shared: the umask decides, as for any other file."""
    make(tmp_path)
    before = os.umask(0o022)
    try:
        mnist(str(tmp_path))
    finally:
        os.umask(before)
    assert (tmp_path / "MNIST" / "trainctl-1.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_cache_that_is_in_the_way_is_no_error(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "MNIST" / "trainctl-1.safetensors").mkdir()
    assert mnist(str(tmp_path)).note.startswith("decoded; not cached: ")
    assert names(tmp_path / "MNIST") == ["raw", "trainctl-1.safetensors"]


def refused(root: Path, file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        mnist(str(root))
    assert not isinstance(caught.value, MissingDataError)
    (problem,) = caught.value.problems
    assert str(file) in problem.message
    assert "is malformed" in problem.message
    assert "\n" not in problem.message
    assert "dataset.download=true" in problem.remedy
    assert names(root / "MNIST") == ["raw"]
    return problem.message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, 4, 8, 10, -1])
def test_a_truncated_file_is_named(tmp_path: Path, name: str, keep: int) -> None:
    raw = make(tmp_path)
    content = (raw / name).read_bytes()
    (raw / name).write_bytes(content[:keep])
    refused(tmp_path, raw / name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_zipped_file_is_named(tmp_path: Path, name: str, share: float) -> None:
    raw = make(tmp_path, zipped=True)
    file = raw / f"{name}.gz"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    refused(tmp_path, file)


def test_a_damaged_zipped_file_is_named_wherever_the_damage_is(tmp_path: Path) -> None:
    raw = make(tmp_path, zipped=True)
    file = raw / f"{TRAIN_IMAGES}.gz"
    content = file.read_bytes()
    # Bytes 4 to 9 of the header are a time and flags without meaning for the content.
    for position in [0, 1, 2, *range(10, len(content), 7)]:
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        file.write_bytes(damaged)
        refused(tmp_path, file)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("magic", [0, 1, 0x0801, 0x0803, 0x0802, 0x0D03, 0x0903, 0xFFFFFFFF])
def test_a_wrong_magic_number_is_named(tmp_path: Path, name: str, magic: int) -> None:
    raw = make(tmp_path)
    content = (raw / name).read_bytes()
    if struct.unpack(">I", content[:4])[0] == magic:
        pytest.skip("the right one")
    (raw / name).write_bytes(struct.pack(">I", magic) + content[4:])
    refused(tmp_path, raw / name)


@pytest.mark.parametrize(
    ("split", "file"), [((TRAIN_IMAGES, 6), TRAIN_LABELS), ((TEST_IMAGES, 4), TEST_LABELS)]
)
def test_fewer_labels_than_images_are_named(tmp_path: Path, split: tuple[str, int], file: str) -> None:
    raw = make(tmp_path)
    (raw / file).write_bytes(idx(labels(3)))
    assert f"3 labels for {split[1]} images" in refused(tmp_path, raw / file)


def test_images_of_another_size_are_named(tmp_path: Path) -> None:
    raw = make(tmp_path)
    (raw / TEST_IMAGES).write_bytes(idx(images(4, side=8)))
    assert "(8, 8), not (28, 28)" in refused(tmp_path, raw / TEST_IMAGES)


def test_a_label_that_is_no_digit_is_refused(tmp_path: Path) -> None:
    raw = make(tmp_path)
    (raw / TRAIN_LABELS).write_bytes(idx(torch.full((6,), 11, dtype=torch.uint8)))
    with pytest.raises(ConfigError, match="train target 11 is outside its 10 classes"):
        with_targets(mnist(str(tmp_path)))


@pytest.mark.parametrize("gone", [FILES, (TRAIN_LABELS,), (TEST_IMAGES, TEST_LABELS)])
def test_missing_files_are_named_with_the_folder_and_the_flag(tmp_path: Path, gone: tuple[str, ...]) -> None:
    raw = make(tmp_path)
    for name in gone:
        (raw / name).unlink()
    with pytest.raises(MissingDataError) as caught:
        mnist(str(tmp_path))
    (problem,) = caught.value.problems
    assert all(name in problem.message for name in gone)
    assert str(raw) in problem.message
    assert "dataset.root=DIR" in problem.remedy
    assert "dataset.download=true" in problem.remedy
    assert caught.value.exit_code == 2


def test_a_root_that_is_not_there_is_named_as_an_absolute_path(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=str(tmp_path / "data" / "MNIST" / "raw")) as caught:
        mnist()
    assert caught.value.stand_in == {"task": "classification", "shape": [1, 28, 28], "outputs": 10}
    assert not (tmp_path / "data").exists()


def test_files_that_are_there_are_not_fetched(tmp_path: Path) -> None:
    make(tmp_path)
    assert len(mnist(str(tmp_path), download=True).train) == 6


def test_the_real_one(mnist_root: Path) -> None:
    data = mnist(str(mnist_root))
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    expected = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.train.targets.bincount().tolist() == expected
    assert data.train.targets[:5].tolist() == [5, 0, 4, 1, 9]
    mean = data.train.inputs.float().mean().item() / 255
    assert mean == pytest.approx(0.1307, abs=1e-4)
    outputs = data.transform(data.train.inputs[:20_000])
    assert abs(outputs.mean().item()) < 0.02
    assert abs(outputs.std().item() - 1) < 0.02
    assert mnist(str(mnist_root)).note == "cached"
