"""Worker-fed batches: the same bytes for any number of workers, a named end for every way they can fail."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from tests.helpers.program import PROGRAM, start
from tests.helpers.runs import weights
from trainctl.components.loaders.auto import auto
from trainctl.components.loaders.resident import ResidentLoader
from trainctl.components.loaders.workers import WorkersLoader
from trainctl.data import ItemSplit, Split, Standardize, worker_process
from trainctl.errors import ConfigError, WorkerError
from trainctl.registry.protocols import Cursor

CPU = torch.device("cpu")
SAMPLES, BATCH = 23, 4


def numbered(item: int) -> Tensor:
    return torch.full((1, 2, 2), item, dtype=torch.uint8)


def random_sample(item: int) -> Tensor:
    """Draws from all three generators."""
    drawn = [random.random(), numpy.random.random(), torch.rand(()).item()]
    return torch.tensor([[[float(item), *drawn]]])


def drawn_at_fourteen(item: int, what: str) -> Tensor:
    """A sample, except that number 14 does ``what`` when it is loaded by a worker."""
    if item == 14 and what == "raises":
        raise OSError("broken data stream when reading image file")
    if item == 14 and what == "shape":
        return torch.zeros(1, 3, 2, dtype=torch.uint8)
    if item == 14 and what == "array":
        return numpy.zeros((1, 2, 2))  # type: ignore[return-value]
    if item == 14 and get_worker_info() is not None:
        if what == "hangs":
            time.sleep(600)
        if what == "leaves":
            os._exit(3)
        if what.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[what])
    return numbered(item)


def process_id(item: int) -> Tensor:
    return torch.tensor([os.getpid()])


@pytest.fixture
def make() -> Iterator[Callable[..., WorkersLoader]]:
    """Makes loaders, and closes them at the end."""
    made: list[WorkersLoader] = []

    def make(
        load: Callable[[int], Tensor] = numbered,
        workers: int = 2,
        seed: int | None = 0,
        samples: int = SAMPLES,
        timeout: float = 60.0,
    ) -> WorkersLoader:
        split = ItemSplit(range(samples), torch.arange(samples), load)
        each = WorkersLoader(split, Standardize(), BATCH, CPU, seed, workers=workers, timeout=timeout)
        made.append(each)
        return each

    yield make
    for each in made:
        each.close()


def children() -> list[Any]:
    return [child for child in multiprocessing.active_children() if child.is_alive()]


def equal(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one, other)
        for pair in zip(first, second, strict=True)
        for one, other in zip(pair[0][:2], pair[1][:2], strict=True)
    )


@pytest.mark.quick(1)
@pytest.mark.parametrize("seed", [0, None])
def test_any_number_of_workers_gives_the_same_bytes(make, seed: int | None) -> None:
    loaders = [make(random_sample, workers, seed) for workers in (0, 1, 2)]
    for epoch in (0, 1, 5):
        none, one, two = [list(each.batches(Cursor(epoch))) for each in loaders]
        assert equal(none, one)
        assert equal(none, two)


def test_the_order_is_that_of_resident_data(make) -> None:
    inputs = torch.stack([numbered(number) for number in range(SAMPLES)])
    for seed in (0, 3, None):
        resident = ResidentLoader(Split(inputs, torch.arange(SAMPLES)), Standardize(), BATCH, CPU, seed)
        fed = make(workers=2, seed=seed)
        assert len(fed) == len(resident)
        assert fed.samples == resident.samples
        for epoch in (0, 4):
            assert equal(list(fed.batches(Cursor(epoch))), list(resident.batches(Cursor(epoch))))


@pytest.mark.parametrize("workers", [0, 2])
def test_continuing_from_any_position_gives_exactly_the_remaining_batches(make, workers: int) -> None:
    whole = list(make(random_sample, 0).batches(Cursor(3)))
    each = make(random_sample, workers)
    for done in range(len(whole) + 1):
        assert equal(list(each.batches(Cursor(3, min(SAMPLES, done * BATCH)))), whole[done:])


def test_an_epoch_left_in_its_middle_does_not_reach_into_the_next(make) -> None:
    expected = list(make(random_sample, 0).batches(Cursor(1)))
    each = make(random_sample)
    for left_after in range(1, 5):
        for number, _ in enumerate(each.batches(Cursor(0)), 1):
            if number == left_after:
                break
        assert equal(list(each.batches(Cursor(1))), expected)


def test_what_a_sample_draws_depends_on_seed_epoch_and_sample_alone(make) -> None:
    def drawn(seed: int, epoch: int) -> dict[int, tuple[float, ...]]:
        each = make(random_sample, 0, seed)
        batches = [inputs.reshape(-1, 4) for inputs, *_ in each.batches(Cursor(epoch))]
        return {int(row[0]): tuple(row[1:].tolist()) for row in torch.cat(batches)}

    first = drawn(0, 0)
    assert len({number for numbers in first.values() for number in numbers}) == 3 * SAMPLES
    assert drawn(0, 0) == first
    for seed, epoch in ((0, 1), (1, 0)):
        assert all(drawn(seed, epoch)[item] != first[item] for item in first)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_runs_own_random_numbers_are_left_alone(make, workers: int) -> None:
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    expected = torch.rand(3), random.random(), numpy.random.random()
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    each = make(random_sample, workers)
    list(each.batches(Cursor(0)))
    list(each.batches(Cursor(1)))
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), numpy.random.random()) == expected[1:]


def test_a_look_at_the_first_batch_starts_no_process(make) -> None:
    before = len(children())
    each = make()
    inputs, targets, *_ = next(iter(each.batches()))
    assert len(inputs) == len(targets) == BATCH
    assert len(children()) == before


def test_workers_stay_from_epoch_to_epoch_and_go_when_closed(make) -> None:
    each = make(process_id)
    epochs = [torch.cat([inputs for inputs, *_ in each.batches(Cursor(epoch))]).long() for epoch in range(3)]
    assert len({int(number) for epoch in epochs for number in epoch.flatten()} - {os.getpid()}) == 2
    started = time.perf_counter()
    each.close()
    assert time.perf_counter() - started < 2
    assert children() == []
    each.close()
    assert len(list(each.batches(Cursor(4)))) == len(each)


def test_workers_go_with_their_loader() -> None:
    split = ItemSplit(range(SAMPLES), torch.arange(SAMPLES), numbered)
    each = WorkersLoader(split, Standardize(), BATCH, CPU, 0, workers=1)
    list(each.batches())
    assert len(children()) == 1
    del each
    import gc

    gc.collect()
    assert children() == []


def test_a_second_iteration_ends_the_first(make) -> None:
    each = make()
    first = each.batches(Cursor(0))
    next(first), next(first)
    list(each.batches(Cursor(1)))
    with pytest.raises(RuntimeError, match="another iteration"):
        next(first)


@pytest.mark.parametrize(
    ("what", "message", "remedy"),
    [
        ("SIGKILL", "a data worker was killed by SIGKILL", "loader.workers=0"),
        ("SIGBUS", "shared memory full", "/dev/shm larger"),
        ("leaves", "a data worker exited with code 3", "loader.workers=0"),
    ],
)
def test_a_dead_worker_is_named_with_the_remedy(make, what: str, message: str, remedy: str) -> None:
    each = make(partial(drawn_at_fourteen, what=what))
    started = time.perf_counter()
    with pytest.raises(WorkerError, match=message) as caught:
        list(each.batches())
    assert time.perf_counter() - started < 30
    assert caught.value.exit_code == 8
    assert remedy in caught.value.problems[0].remedy


@pytest.mark.slow
def test_a_hung_worker_is_given_up_after_the_timeout(make) -> None:
    each = make(partial(drawn_at_fourteen, what="hangs"), timeout=2.0)
    with pytest.raises(WorkerError, match="gave no batch for 2 s") as caught:
        list(each.batches())
    assert caught.value.exit_code == 8
    assert "loader.timeout=20" in caught.value.problems[0].remedy
    assert "loader.workers=0" in caught.value.problems[0].remedy
    each.close()
    assert children() == []


def test_a_batch_that_cannot_be_passed_on_names_shared_memory(make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(samples: Any) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(worker_process, "stacked", full)
    with pytest.raises(WorkerError, match="No space left") as caught:
        list(make(workers=0).batches())
    assert "/dev/shm" in caught.value.problems[0].remedy


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raises", "^14 cannot be loaded: OSError: broken data stream when reading image file$"),
        ("shape", r"14 has shape \(1, 3, 2\)|has .*\(1, 3, 2\)"),
        ("array", "14 was loaded as ndarray"),
    ],
)
def test_a_sample_that_cannot_be_loaded_is_named(make, workers: int, what: str, message: str) -> None:
    each = make(partial(drawn_at_fourteen, what=what), workers)
    with pytest.raises(ConfigError, match=message) as caught:
        list(each.batches())
    assert caught.value.exit_code == 2


def test_what_cannot_be_sent_to_a_worker_is_refused_before_one_starts(make) -> None:
    each = make(lambda item: numbered(item))
    with pytest.raises(ConfigError, match="cannot be sent to a worker") as caught:
        list(each.batches())
    assert "loader.workers=0" in caught.value.problems[0].remedy
    assert children() == []
    assert len(list(make(lambda item: numbered(item), workers=0).batches())) == 6


def test_the_program_is_asked_while_a_batch_is_waited_for(make) -> None:
    class StoppedError(Exception):
        pass

    def stop() -> None:
        raise StoppedError

    each = make(partial(drawn_at_fourteen, what="hangs"))
    each.feed.while_waiting = stop
    started = time.perf_counter()
    with pytest.raises(StoppedError):
        list(each.batches())
    assert time.perf_counter() - started < 30


# ------------------------------------------------------------------ which loader


@pytest.mark.parametrize(("samples", "workers"), [(511, 0), (512, min(8, len(os.sched_getaffinity(0))))])
def test_auto_starts_no_workers_for_a_few_samples(samples: int, workers: int) -> None:
    split = ItemSplit(range(samples), torch.arange(samples), numbered)
    assert WorkersLoader(split, Standardize(), BATCH, CPU, 0).feed.workers == workers


def test_auto_takes_what_fits_the_data() -> None:
    whole = Split(torch.zeros(8, 1), torch.arange(8))
    items = ItemSplit(range(8), torch.arange(8), numbered)
    assert isinstance(auto(whole, Standardize(), BATCH, CPU, 0), ResidentLoader)
    assert isinstance(auto(items, Standardize(), BATCH, CPU, 0), WorkersLoader)


@pytest.mark.parametrize("workers", [0, 2])
def test_resident_loads_items_once(workers: int) -> None:
    split = ItemSplit(range(SAMPLES), torch.arange(SAMPLES), numbered)
    each = ResidentLoader(split, Standardize(), BATCH, CPU, 0, workers=workers)
    assert each.note == "resident: samples were loaded once"
    assert each.split.inputs.dtype == torch.uint8
    assert each.split.inputs[:, 0, 0, 0].tolist() == list(range(SAMPLES))
    assert children() == []
    fed = WorkersLoader(split, Standardize(), BATCH, CPU, 0, workers=0)
    assert equal(list(each.batches(Cursor(2))), list(fed.batches(Cursor(2))))


def test_workers_have_nothing_to_do_for_data_in_memory(trainctl) -> None:
    outcome = trainctl("loader=workers", "threads=1")
    assert outcome.code == 2
    assert "loader=workers: this dataset is in memory" in outcome.err
    assert "loader=auto" in outcome.err


# ------------------------------------------------------------------ whole runs

PLUGIN = '''
import os, signal, time
import torch
from torch.utils.data import get_worker_info
from trainctl.data import Data, ItemSplit, Standardize
from trainctl.registry import DATASETS

class Load:
    def __init__(self, what):
        self.what = what
    def __call__(self, item):
        if self.what == "slow":
            time.sleep(0.005)
        if self.what == "hangs" and item == 900 and get_worker_info():
            time.sleep(600)
        if self.what == "dies" and item == 900 and get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return (torch.rand(1, 4, 4) * 255).to(torch.uint8)

@DATASETS.register("items")
def items(what: str = "fine", samples: int = 1000) -> Data:
    """Made one by one."""
    split = ItemSplit(range(samples), torch.arange(samples) % 10, Load(what))
    return Data("items", "classification", split, None, (1, 4, 4), 10, Standardize(255.0, 0.5, 0.25))
'''
WORDS = ("plugins=[./items.py]", "dataset.name=items", "threads=1", "display.every=1", "dataset.val=0.1")


@pytest.fixture
def plugin(tmp_path: Path) -> None:
    (tmp_path / "items.py").write_text(PLUGIN)


@pytest.mark.usefixtures("plugin")
def test_runs_with_and_without_workers_are_equal_and_say_what_they_do(trainctl, tmp_path: Path) -> None:
    words = (*WORDS, "epochs=2", "model.dropout=0.3")
    with_workers = trainctl(*words, "loader.workers=2", "hydra.run.dir=two")
    assert with_workers.code == 0, with_workers.err
    without = trainctl(*words, "loader.workers=0", "hydra.run.dir=none")
    assert weights(tmp_path / "two") == weights(tmp_path / "none") != []
    assert "2 processes make batches ahead" in with_workers.out
    assert "samples are loaded in this process" in without.out
    assert "batches: workers: 2 processes" in (tmp_path / "two" / "train.log").read_text()
    assert children() == []


@pytest.mark.quick(1)
@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(("what", "timeout"), [("dies", 60), ("hangs", 2)])
@pytest.mark.slow
def test_a_run_whose_worker_fails_keeps_what_it_trained(
    trainctl, tmp_path: Path, what: str, timeout: int
) -> None:
    outcome = trainctl(
        *WORDS, f"dataset.what={what}", "loader.workers=2", f"loader.timeout={timeout}.0", "hydra.run.dir=run"
    )
    assert outcome.code == 8
    assert "loader.workers=0" in outcome.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", 8)
    last = max((tmp_path / "run" / "checkpoints").iterdir())
    assert last.name == f"step-{record['last']['step']:08d}"
    assert children() == []


def in_a_group_of_its_own(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The program as a terminal starts it: a signal to the group reaches it and all it started."""
    slow = (*WORDS, "dataset.what=slow", "loader.workers=2", "train.max_steps=300", "hydra.run.dir=run")
    process = start(*slow, *words, cwd=folder, own_group=True)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "Step [8/" in line:  # so the workers have been feeding it
            return process
    process.communicate(timeout=10)
    raise AssertionError(f"the program ended early: {seen}")


def alive(group: int) -> list[str]:
    """The processes of a group, without those that have ended and whose parent has not looked yet."""
    listed = subprocess.run(
        ["ps", "-o", "stat=,pid=,args=", "-g", str(group)], capture_output=True, text=True
    )
    return [line for line in listed.stdout.splitlines() if not line.startswith("Z")]


def wait_until_gone(group: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := alive(group)) and time.monotonic() < until:
        time.sleep(0.05)
    if left:
        os.killpg(group, signal.SIGKILL)
    assert left == []


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
)
@pytest.mark.slow
def test_a_signal_to_the_whole_group_saves_the_run_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = in_a_group_of_its_own(tmp_path)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "the run was saved" in err
    assert "Traceback" not in err
    wait_until_gone(process.pid, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    process = in_a_group_of_its_own(tmp_path)
    process.kill()
    process.wait(timeout=10)
    wait_until_gone(process.pid, 2)
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()


@pytest.mark.slow
def test_a_full_shared_memory_ends_the_run_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "items.py").write_text(PLUGIN.replace("1, 4, 4", "3, 256, 256"))
    program = shlex.join([str(PROGRAM), *WORDS, "model=linear", "loader.workers=2", "loader.timeout=20.0"])
    private = ["unshare", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=2m tmpfs /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*private, mount], capture_output=True).returncode:
        pytest.skip("a small /dev/shm needs a mount of one's own")
    done = subprocess.run([*private, f"{mount} && {program}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 8, done.stderr
    assert "make /dev/shm larger" in done.stderr


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_on_the_cpu() -> None:
    split = ItemSplit(range(SAMPLES), torch.arange(SAMPLES), random_sample)
    on_gpu = WorkersLoader(split, Standardize(), BATCH, torch.device("cuda"), 0, workers=2)
    on_cpu = WorkersLoader(split, Standardize(), BATCH, CPU, 0, workers=0)
    for epoch in (0, 1):
        copied = [(inputs.cpu(), targets.cpu()) for inputs, targets, *_ in on_gpu.batches(Cursor(epoch))]
        assert equal(copied, list(on_cpu.batches(Cursor(epoch))))
    on_gpu.close()
