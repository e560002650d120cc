"""Device, precision, seeds, determinism and the choice of threads."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainctl.errors import ConfigError
from trainctl.training import runtime
from trainctl.training.startup import OPENMP_SETTINGS

CPU = torch.device("cpu")
CUDA = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_cpu_is_always_there() -> None:
    assert runtime.choose_device("cpu") == CPU


@pytest.mark.skipif(CUDA or torch.backends.mps.is_available(), reason="has an accelerator")
def test_auto_without_an_accelerator_is_the_cpu() -> None:
    assert runtime.choose_device("auto") == CPU


@pytest.mark.skipif(CUDA, reason="has a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device={name}: no CUDA device") as caught:
        runtime.choose_device(name)
    assert "device=cpu" in caught.value.problems[0].remedy


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="has MPS")
def test_an_mps_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="device=mps: no MPS device"):
        runtime.choose_device("mps")


@pytest.mark.parametrize(("name", "number"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("auto", 0)])
def test_the_chosen_gpu_is_the_current_one(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(runtime, "_cuda_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert runtime.choose_device(name) == torch.device("cuda" if name == "auto" else name)
    assert chosen == [number]


@pytest.mark.gpu
def test_a_gpu_is_taken_and_one_too_many_refused() -> None:
    assert runtime.choose_device("auto").type == "cuda"
    count = torch.cuda.device_count()
    assert runtime.choose_device(f"cuda:{count - 1}").index == count - 1
    with pytest.raises(ConfigError, match=f"there are {count} CUDA devices"):
        runtime.choose_device(f"cuda:{count}")


def test_a_seed_repeats_what_is_drawn() -> None:
    drawn = []
    for seed in (3, 3, 4):
        runtime.seed_everything(seed)
        drawn.append(torch.rand(5))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_determinism_is_turned_on_and_off() -> None:
    runtime.set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    runtime.set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_workspace_that_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    runtime.set_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_full_precision_changes_nothing() -> None:
    assert isinstance(runtime.precision_context("fp32", CPU), nullcontext)


def test_half_precision_can_be_entered_again_and_leaves_the_parameters() -> None:
    layer = nn.Linear(3, 2)
    context = runtime.precision_context("bf16", CPU)
    for _ in range(2):
        with context:
            assert layer(torch.ones(1, 3)).dtype == torch.bfloat16
        assert layer(torch.ones(1, 3)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


def test_the_random_state_is_kept() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with runtime.random_state_kept(CPU):
        torch.rand(100)
    assert torch.equal(torch.rand(3), expected)


# ------------------------------------------------------------------------ threads


@pytest.fixture(autouse=True)
def no_settings_of_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OPENMP_SETTINGS:
        monkeypatch.delenv(name, raising=False)


class Trial:
    """A training step that says how often and with how many threads it was called."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.batch = (torch.randn(4, 6), torch.randn(4, 2))
        self.threads: list[int] = []

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Any, targets: Any) -> None:
        assert model is not self.model
        self.threads.append(torch.get_num_threads())
        loss = (model(inputs) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def choose(self, setting: int | str = "auto", device: torch.device = CPU) -> tuple[int, str]:
        found = runtime.choose_threads(setting, device, self.model, self.optimizer, self.step, self.batch)
        return found.number, found.note


SAME_TIME = runtime._SAME_TIME


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    # Steps of a busy machine take any time.
    monkeypatch.setattr(runtime, "_SAME_TIME", 1e6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_number_of_threads_is_taken_as_asked(count: int) -> None:
    trial = Trial()
    assert trial.choose(count) == (count, "as asked")
    assert torch.get_num_threads() == count
    assert not trial.threads


@pytest.mark.usefixtures("two_threads")
def test_auto_measures_one_and_all_and_takes_one_of_them() -> None:
    trial = Trial()
    count, note = trial.choose()
    assert count in (1, 2)
    assert note == "measured"
    assert torch.get_num_threads() == count
    assert set(trial.threads) == {1, 2}


@pytest.mark.usefixtures("two_threads")
def test_measuring_leaves_no_trace_in_the_run() -> None:
    trial = Trial()
    model = copy.deepcopy(trial.model.state_dict())
    optimizer = copy.deepcopy(trial.optimizer.state_dict())
    state = torch.get_rng_state()
    trial.choose()
    assert all(torch.equal(value, model[name]) for name, value in trial.model.state_dict().items())
    assert trial.optimizer.state_dict() == optimizer
    assert all(parameter.grad is None for parameter in trial.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert trial.model.training


@pytest.mark.usefixtures("two_threads")
def test_what_was_measured_is_kept() -> None:
    first, _ = Trial().choose()
    torch.set_num_threads(2)
    again = Trial()
    assert again.choose() == (first, "measured before")
    assert torch.get_num_threads() == first
    # Its step is tried once, nothing is compared.
    assert set(again.threads) == {first}


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_what_was_measured_on_another_load_is_measured_again(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_SAME_TIME", SAME_TIME)
    Trial().choose()
    store = Path(os.environ["XDG_CACHE_HOME"]) / "trainctl" / "threads.json"
    ((key, entry),) = json.loads(store.read_text()).items()
    # A step that takes long is believed: to try it would cost more than it gains.
    store.write_text(json.dumps({key: {**entry, "seconds": min(entry["seconds"] * factor, 0.019)}}))
    torch.set_num_threads(2)
    again = Trial()
    assert again.choose()[1].startswith("measured again")
    assert set(again.threads) == {1, 2}
    assert json.loads(store.read_text())[key]["seconds"] < 0.015


@pytest.mark.parametrize(
    ("seconds", "count"), [({1: 1.0, 2: 0.9}, 1), ({1: 1.0, 2: 0.7}, 2), ({1: 1.0, 4: 0.4, 8: 0.35}, 4)]
)
def test_more_threads_are_taken_only_where_they_gain_clearly(seconds: dict[int, float], count: int) -> None:
    assert runtime._fastest(seconds, "measured") == (count, "measured", seconds[count])


@pytest.mark.usefixtures("two_threads")
def test_the_users_own_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # as trainctl sets it
    assert Trial().choose()[1] == "measured"
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    torch.set_num_threads(2)
    assert Trial().choose()[1] == "measured before; GOMP_SPINCOUNT=1000"


@pytest.mark.usefixtures("two_threads")
def test_another_model_or_batch_is_measured_anew() -> None:
    Trial().choose()
    torch.set_num_threads(2)
    larger = Trial()
    larger.batch = (torch.randn(32, 6), torch.randn(32, 2))
    assert larger.choose()[1] == "measured"
    torch.set_num_threads(2)
    other = Trial()
    other.model[0] = nn.Linear(6, 8, bias=False)  # type: ignore[index, operator]
    assert other.choose()[1] == "measured"
    torch.set_num_threads(2)
    assert Trial().choose()[1] == "measured before"


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"])
def test_a_broken_record_is_measured_anew_and_mended(content: bytes) -> None:
    store = Path(os.environ["XDG_CACHE_HOME"]) / "trainctl" / "threads.json"
    store.parent.mkdir(parents=True)
    store.write_bytes(content)
    assert Trial().choose()[1] == "measured"
    torch.set_num_threads(2)
    assert Trial().choose()[1] == "measured before"
    assert [path.name for path in store.parent.iterdir()] == ["threads.json"]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("value", [0, -1, 3, 1000, "2", None, 1.5, True, 1])
@pytest.mark.slow
def test_a_record_that_makes_no_sense_is_not_believed(value: Any) -> None:
    Trial().choose()
    store = Path(os.environ["XDG_CACHE_HOME"]) / "trainctl" / "threads.json"
    (key,) = json.loads(store.read_text())
    for entry in (value, {"threads": value, "seconds": 1e-3 if value != 1 else None}):
        store.write_text(json.dumps({key: entry}))
        torch.set_num_threads(2)
        assert Trial().choose()[1] == "measured"


@pytest.mark.usefixtures("two_threads")
def test_a_cache_that_cannot_be_written_costs_only_the_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Trial().choose()[1] == "measured"


def test_one_thread_needs_no_measuring() -> None:
    torch.set_num_threads(1)
    trial = Trial()
    assert trial.choose() == (1, "torch's default")
    assert not trial.threads


@pytest.mark.usefixtures("two_threads")
def test_another_device_than_the_cpu_needs_no_measuring() -> None:
    trial = Trial()
    assert trial.choose(device=torch.device("cuda")) == (2, "torch's default")
    assert not trial.threads
