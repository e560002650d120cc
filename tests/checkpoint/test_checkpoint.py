"""Checkpoints: whole or not at all, and never read when a single bit is wrong."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainctl.checkpoint.format import CheckpointData, read_checkpoint, ready_to_save, save_checkpoint
from trainctl.checkpoint.retention import list_checkpoints, newest_valid, prune_checkpoints
from trainctl.errors import CheckpointError, NotFiniteError, UnsafeInputError

FILES = ("model.safetensors", "training.safetensors", "state.json", "manifest.json")


class Net(nn.Module):
    """Parameters and buffers of many types and shapes."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 3)
        self.norm = nn.BatchNorm1d(3)
        self.narrow = nn.Parameter(torch.randn(5).bfloat16())
        self.scalar = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("bytes", torch.arange(7, dtype=torch.uint8))
        self.register_buffer("wide", torch.randn(2, 2, dtype=torch.float64))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("passing", torch.zeros(1), persistent=False)


STATE = {
    "step": 7,
    "epoch": 1,
    "position": 24,
    "best": {"step": 5, "val/loss": 0.25},
    "text": "é",
    "none": None,
    "parts": {},
}


def save(folder: Path, net: nn.Module, state: dict[str, Any]) -> Path:
    training = {"optimizer.0.exp_avg": torch.linspace(0, 1, 11), "random.torch": torch.get_rng_state()}
    return save_checkpoint(folder, CheckpointData(net.state_dict(), training, state))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    content = read_checkpoint(path)
    return dict(content.model), dict(content.state)


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return sorted(first) == sorted(second) and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def test_what_was_saved_is_what_is_read(tmp_path: Path) -> None:
    net = Net()
    path = save(tmp_path / "checkpoints", net, STATE)
    assert path == tmp_path / "checkpoints" / "step-00000007"
    assert sorted(each.name for each in path.iterdir()) == sorted(FILES)
    tensors, state = read(path)
    assert state == {**STATE, "parts": {}}
    assert same(tensors, dict(net.state_dict()))
    twin = Net()
    twin.load_state_dict(tensors)
    assert same(dict(twin.state_dict()), dict(net.state_dict()))


def test_the_manifest_has_size_and_digest_of_each_file(tmp_path: Path) -> None:
    import hashlib

    path = save(tmp_path, Net(), STATE)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["version"] == 3
    for name in FILES[:3]:
        content = (path / name).read_bytes()
        expected = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert manifest["files"][name] == expected


def positions(size: int, count: int) -> list[int]:
    return sorted({round(number * (size - 1) / (count - 1)) for number in range(count)})


@pytest.mark.parametrize(("name", "count"), [(name, 60) for name in FILES[:3]])
@pytest.mark.parametrize("bit", [0, 5, 7])
def test_a_flipped_bit_is_refused(tmp_path: Path, name: str, count: int, bit: int) -> None:
    path = save(tmp_path, Net(), STATE)
    file = path / name
    content = file.read_bytes()
    for position in positions(len(content), count):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name) as caught:
            read(path)
        assert caught.value.exit_code == 4
    file.write_bytes(content)
    read(path)


@pytest.mark.parametrize("bit", [0, 1, 2, 5, 7])
def test_a_flipped_bit_of_the_manifest_is_refused_wherever_it_is(tmp_path: Path, bit: int) -> None:
    path = save(tmp_path, Net(), STATE)
    file = path / "manifest.json"
    content = file.read_bytes()
    accepted = []
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        file.write_bytes(damaged)
        try:
            read(path)
        except CheckpointError:
            continue
        accepted.append(bytes(damaged[max(0, position - 10) : position + 10]))
    assert not accepted


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_longer_file_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, Net(), STATE)
    file = path / name
    content = file.read_bytes()
    for length in positions(len(content), 20)[:-1]:
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read(path)
    file.write_bytes(content + b"x")
    with pytest.raises(CheckpointError):
        read(path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, Net(), STATE)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        read(path)
    with pytest.raises(CheckpointError, match="step-00000001"):
        read(tmp_path / "step-00000001")
    assert list_checkpoints(tmp_path / "none") == []


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", '{"files": []}', '{"version": 3, "files": {}}', "\x00"]
)
def test_a_foreign_manifest_is_refused(tmp_path: Path, content: str) -> None:
    path = save(tmp_path, Net(), STATE)
    (path / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError):
        read(path)


def test_another_format_is_refused_by_its_number(tmp_path: Path) -> None:
    path = save(tmp_path, Net(), STATE)
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 3', '"version": 2'))
    said = "step-00000007 has checkpoint format 2; this trainctl reads format 3"
    with pytest.raises(CheckpointError, match=said) as caught:
        newest_valid(tmp_path)
    assert caught.value.exit_code == 4


def test_nothing_pickled_is_read(tmp_path: Path) -> None:
    """A pickle under the parameters' name is refused unread, even with a manifest that fits it."""
    import hashlib

    path = save(tmp_path, Net(), STATE)
    torch.save(Net().state_dict(), path / "model.safetensors")
    content = (path / "model.safetensors").read_bytes()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1))
    with pytest.raises(UnsafeInputError, match="pickle") as caught:
        read(path)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["linear.weight", "narrow", "scalar", "norm.running_var", "wide"])
def test_what_is_not_finite_is_never_saved(name: str, value: float) -> None:
    net = Net()
    with torch.no_grad():
        net.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(NotFiniteError, match=rf"{name} has NaN or infinite values at step 8"):
        ready_to_save(CheckpointData(net.state_dict(), {}, {"step": 8}))


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write larger files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_will_not_take_it_leaves_the_old_checkpoints_alone(tmp_path: Path) -> None:
    old = save(tmp_path, Net(), STATE)
    large = nn.Linear(1000, 500)
    with files_at_most(2**20), pytest.raises(OSError, match=r"[Ll]arge"):
        save(tmp_path, large, {"step": 8})
    assert list(tmp_path.iterdir()) == [old]
    read(old)
    read(save(tmp_path, large, {"step": 8}))


@pytest.mark.parametrize("state", [{"step": 8, "thing": object()}, {"step": 8, "thing": {1, 2}}])
def test_a_state_that_cannot_be_written_leaves_nothing(tmp_path: Path, state: dict[str, Any]) -> None:
    old = save(tmp_path, Net(), STATE)
    with pytest.raises(TypeError):
        save(tmp_path, Net(), state)
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_at_any_sync_leaves_only_whole_checkpoints(
    tmp_path: Path, call: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three files and two folders are synced; whatever stops there leaves no half of a checkpoint."""
    old = save(tmp_path, Net(), STATE)
    real, calls = os.fsync, iter(range(1, 100))

    def failing(descriptor: int) -> None:
        real(descriptor)
        if next(calls) == call:
            raise error("stopped")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(error):
        save(tmp_path, Net(), {"step": 8})
    monkeypatch.undo()
    left = list(tmp_path.iterdir())
    assert old in left
    for path in left:
        read(path)
    assert list_checkpoints(tmp_path)[0] == old


def test_what_a_kill_left_is_no_checkpoint_and_in_nobodys_way(tmp_path: Path) -> None:
    """Process numbers come again, in containers at once: the leftover may have ours."""
    left = tmp_path / f".step-00000008.{os.getpid()}"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert list_checkpoints(tmp_path) == []
    path = save(tmp_path, Net(), {"step": 8})
    read(path)
    assert list_checkpoints(tmp_path) == [path]


def test_saving_a_step_again_keeps_the_first(tmp_path: Path) -> None:
    net = Net()
    path = save(tmp_path, net, STATE)
    before = (path / "manifest.json").read_bytes()
    assert save(tmp_path, Net(), STATE) == path
    assert (path / "manifest.json").read_bytes() == before


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]


@pytest.mark.parametrize(
    ("keep", "keep_last", "left"),
    [
        ({3}, 1, [3, 10]),
        (set(), 1, [10]),
        ({10}, 1, [10]),
        ({1, 4}, 2, [1, 4, 7, 10]),
        ({3}, 3, [3, 4, 7, 10]),
        (set(), 99, [1, 3, 4, 7, 10]),
        ({99}, 2, [7, 10]),
    ],
)
def test_pruning_keeps_the_best_and_the_newest(
    tmp_path: Path, keep: set[int], keep_last: int, left: list[int]
) -> None:
    for step in (4, 1, 10, 3, 7):
        save(tmp_path, nn.Linear(1, 1), {"step": step})
    prune_checkpoints(tmp_path, keep, keep_last)
    assert steps(tmp_path) == left
    for path in list_checkpoints(tmp_path):
        read(path)


def test_pruning_touches_nothing_else(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, nn.Linear(1, 1), {"step": step})
    (tmp_path / "step-notes.txt").write_text("mine")
    (tmp_path / "step-00000000").mkdir()
    prune_checkpoints(tmp_path, set(), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000000",
        "step-00000002",
        "step-notes.txt",
    ]


@pytest.mark.parametrize("order", [(1, 2, 30), (9, 10, 100), (99_999_999, 100_000_000)])
def test_checkpoints_are_listed_oldest_first(tmp_path: Path, order: tuple[int, ...]) -> None:
    for step in reversed(order):
        save(tmp_path, nn.Linear(1, 1), {"step": step})
    assert steps(tmp_path) == list(order)
    prune_checkpoints(tmp_path, set(), 1)
    assert steps(tmp_path) == [order[-1]]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.output = nn.Linear(4, 5, bias=False)
        self.output.weight = self.embedding.weight
        self.turned = nn.Parameter(self.embedding.weight.detach().T.contiguous())


def test_tied_weights_come_back_tied(tmp_path: Path) -> None:
    net = Tied()
    tensors, _ = read(save(tmp_path, net, STATE))
    assert set(tensors) == set(net.state_dict())
    twin = Tied()
    twin.load_state_dict(tensors)
    assert twin.output.weight is twin.embedding.weight
    assert torch.equal(twin.output.weight, net.embedding.weight)


class Overlapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        table = torch.arange(8.0)
        self.register_buffer("all", table)
        self.register_buffer("first", table[:5])
        self.register_buffer("last", table[3:])
        self.register_buffer("row", torch.arange(3.0).expand(2, 3))


def test_tensors_that_share_part_of_their_memory_are_saved(tmp_path: Path) -> None:
    net = Overlapping()
    tensors, _ = read(save(tmp_path, net, STATE))
    assert same(tensors, {name: tensor.contiguous() for name, tensor in net.state_dict().items()})
