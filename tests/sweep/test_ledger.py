"""The ledger: whole at every moment, honest about who is alive."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trainctl.errors import ConfigError, UnsafeInputError
from trainctl.runs.directory import claim_sweep
from trainctl.sweep.ledger import Job, Ledger, Row, here, is_sweep


def make(folder: Path, count: int = 2) -> Ledger:
    directory = claim_sweep(folder / "sweep", named=True)
    ledger = Ledger.begin(directory, command="trainctl -m seed=1,2")
    ledger.add(
        Job(f"key{n}", n, (f"seed={n}",), f"seed={n}", {"config.yaml": "a: 1\n"}) for n in range(count)
    )
    return ledger


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    again = Ledger(ledger.directory)
    assert again.values["command"] == "trainctl -m seed=1,2"
    assert again.jobs() == ledger.jobs()
    assert [job.words for job in again.jobs()] == [("seed=0",), ("seed=1",)]
    row = here(Row(state="done", attempts=2, exit_code=0, seconds=1.5))
    ledger.write(ledger.jobs()[0], row)
    assert again.row(again.jobs()[0]) == row
    assert [entry.row.state for entry in again.rows()] == ["done", "waiting"]


def test_a_line_that_a_kill_cut_short_does_not_count_and_is_written_over(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    with (ledger.directory / "jobs.jsonl").open("ab") as file:
        file.write(b'{"key": "ke')
    assert len(ledger.jobs()) == 2
    ledger.add([Job("key2", 2, ("seed=2",), "seed=2", {"config.yaml": "a: 1\n"})])
    assert [job.key for job in ledger.jobs()] == ["key0", "key1", "key2"]


@pytest.mark.parametrize("line", [b"{\n", b'{"key": 1}\n', b"[]\n", b'{"key": "a", "words": 3}\n'])
def test_a_damaged_line_is_named(line: bytes, tmp_path: Path) -> None:
    ledger = make(tmp_path, 1)
    path = ledger.directory / "jobs.jsonl"
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(ConfigError, match=r"jobs\.jsonl is damaged in line 2"):
        ledger.jobs()


@pytest.mark.parametrize("stored", [None, 3, {}, {"config.yaml": "\ud800"}, {"config.yaml": None}])
def test_a_job_with_files_that_no_sweep_stores_is_refused(stored: Any, tmp_path: Path) -> None:
    ledger = make(tmp_path, 1)
    path = ledger.directory / "jobs.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": stored}) + "\n")
    with pytest.raises(UnsafeInputError, match=r"jobs\.jsonl line 1"):
        ledger.jobs()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"version": 99}', b"\xff"])
def test_what_is_no_sweep_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_bytes(content)
    assert is_sweep(tmp_path)
    with pytest.raises(ConfigError, match=r"sweep\.json"):
        Ledger(tmp_path)
    with pytest.raises(ConfigError, match="not a sweep"):
        Ledger(tmp_path / "nowhere")


def test_a_row_that_cannot_be_read_is_one_of_a_job_that_waits(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    for text in ('{"state": "don', '{"state": "done", "attempts": 1, "seconds": 1e999}'):
        (ledger.directory / "ledger/0.json").write_text(text)
        row = ledger.row(ledger.jobs()[0])
        assert row == Row(reason=f"{ledger.directory}/ledger/0.json is damaged")


def test_a_job_runs_as_long_as_its_process_lives_and_is_heard_of(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    job = ledger.jobs()[0]
    running = Row(state="running", host=platform.node(), pid=os.getpid(), beat=time.time())
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
    cases = {
        "alive": ({}, "running"),
        "dead": ({"pid": int(ended.stdout)}, "interrupted"),
        "its number given to another process": ({"beat": time.time() - 3600}, "interrupted"),
        "on another machine": ({"host": "elsewhere", "pid": 1}, "running"),
        "silent on another machine": ({"host": "elsewhere", "beat": time.time() - 3600}, "interrupted"),
    }
    for name, (values, state) in cases.items():
        ledger.write(job, Row(**{**vars(running), **values}))
        assert ledger.row(job).state == state, name


@pytest.mark.parametrize(
    ("status", "state"),
    [("done", "done"), ("failed", "failed"), ("running", "interrupted"), ("terminated", "interrupted")],
)
def test_what_the_run_says_counts_when_a_kill_came_before_the_row(
    status: str, state: str, tmp_path: Path
) -> None:
    ledger = make(tmp_path)
    job = ledger.jobs()[0]
    ledger.write(job, Row(state="running", host="elsewhere", beat=0.0, step=3))
    run = ledger.directory_of(job)
    run.mkdir()
    values = {"version": 1, "status": status, "exit_code": 0, "reason": "why", "last": {"step": 9}}
    (run / "run.json").write_text(json.dumps(values))
    row = ledger.row(job)
    assert (row.state, row.reason, row.step) == (state, "why", 9)


@pytest.mark.slow
def test_a_reader_never_sees_half_a_row(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    job = ledger.jobs()[0]
    code = (
        "import sys\nfrom pathlib import Path\nfrom trainctl.sweep.ledger import Ledger, Row\n"
        "ledger = Ledger(Path(sys.argv[1]))\njob = ledger.jobs()[0]\nprint('go', flush=True)\n"
        "for n in range(100000):\n"
        "    ledger.beat(job, Row(state='running', step=n, reason='x' * (n % 5000)))\n"
    )
    ledger.beat(job, Row(state="running"))
    with subprocess.Popen(
        [sys.executable, "-c", code, str(ledger.directory)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen = {ledger.stored(job).step for _ in range(2000)}
        writer.kill()
    assert len(seen) > 1
    assert all(ledger.stored(job).state == "running" for _ in range(10))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"number": "../home"}, "number is '../home', not 1"),
        ({"number": True}, "number is True, not 1"),
        ({"number": 7}, "number is 7, not 1"),
        ({"number": -1}, "number is -1, not 1"),
        ({"files": {"../../.bashrc": "echo"}}, "config.yaml and overrides.yaml only"),
        ({"files": {"/tmp/x": "echo"}}, "config.yaml and overrides.yaml only"),
        ({"files": {"run.json": "{}"}}, "config.yaml and overrides.yaml only"),
        ({"files": {"config.yaml": 3}}, "must be text"),
        ({"words": [3]}, "must be text"),
    ],
)
def test_names_in_a_ledger_that_would_become_other_paths_are_refused(
    values: dict[str, object], reason: str, tmp_path: Path
) -> None:
    ledger = make(tmp_path)
    path = ledger.directory / "jobs.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{json.dumps({**json.loads(second), **values})}\n")
    with pytest.raises(UnsafeInputError) as caught:
        ledger.jobs()
    assert "jobs.jsonl line 2" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["0", "ledger", "jobs.jsonl", "sweep.json"])
def test_a_sweep_that_is_led_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    ledger = make(tmp_path)
    path, target = ledger.directory / name, tmp_path / "moved"
    if path.exists():
        path.rename(target)
    path.symlink_to(target)
    with pytest.raises(UnsafeInputError, match="is a link to"):
        Ledger(ledger.directory).jobs()


@pytest.mark.parametrize("values", [{"pid": "1"}, {"pid": -1}, {"pid": 2**70}, {"beat": "x"}, {"step": []}])
def test_a_row_of_other_types_is_one_of_a_job_that_waits(values: dict[str, object], tmp_path: Path) -> None:
    ledger = make(tmp_path)
    (ledger.directory / "ledger/0.json").write_text(json.dumps({"state": "running", **values}))
    row = ledger.row(ledger.jobs()[0])
    assert row == Row(reason=f"{ledger.directory}/ledger/0.json is damaged")
