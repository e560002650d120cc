"""What torchrun and srun say of a process."""

from __future__ import annotations

import pytest

from trainctl.distributed.context import World, as_many_devices, check_meeting_place, launched
from trainctl.errors import ConfigError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "node[03-04]",
    "SLURM_JOB_ID": "77",
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set before they are deleted, so that what srun's translation sets is taken back.
    for name in (*TORCHRUN, "MASTER_ADDR", "MASTER_PORT", *SRUN):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_a_process_alone(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, variables)
    assert launched() is None
    assert as_many_devices(["devices=4"]) == []


def test_torchrun_and_srun_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TORCHRUN)
    assert launched() == World(3, 4, 1, 2)


def test_srun_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    given(monkeypatch, SRUN)
    assert launched() == World(9, 16, 1, 8)
    assert os.environ["MASTER_ADDR"] == "node03"
    assert os.environ["MASTER_PORT"] == "15077"


@pytest.mark.parametrize("missing", ["SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"])
def test_the_script_of_a_job_is_no_rank(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {name: value for name, value in SRUN.items() if name != missing})
    assert launched() is None


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("gpu1", "gpu1"), ("a,b", "a"), ("n[03-05,9]", "n03"), ("n[7]-ib,x", "n7-ib"), ("a,n[1-2]", "a")],
)
def test_the_first_host_is_where_they_meet(hosts: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    given(monkeypatch, {**SRUN, "SLURM_STEP_NODELIST": hosts})
    launched()
    assert os.environ["MASTER_ADDR"] == first


@pytest.mark.parametrize("count", ["abc", "-3", ""])
def test_a_step_without_a_number_of_tasks_is_refused(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {**SRUN, "SLURM_STEP_NUM_TASKS": count})
    with pytest.raises(ConfigError, match=f"WORLD_SIZE={count}, .*does not say which process"):
        launched()


def test_a_job_without_a_number_meets_at_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    given(monkeypatch, {**SRUN, "SLURM_JOB_ID": "x"})
    launched()
    assert os.environ["MASTER_PORT"] == "15000"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "MASTER_ADDR, where the processes meet, is not"),
        ({"MASTER_ADDR": "n1"}, "MASTER_PORT=: no port"),
        ({"MASTER_ADDR": "n1", "MASTER_PORT": "x"}, "MASTER_PORT=x: no port"),
        ({"MASTER_ADDR": "n1", "MASTER_PORT": "0"}, "MASTER_PORT=0: no port"),
        ({"MASTER_ADDR": "n1", "MASTER_PORT": "65536"}, "MASTER_PORT=65536: no port"),
    ],
)
def test_where_they_meet_is_checked(
    wrong: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, wrong)
    with pytest.raises(ConfigError, match=said):
        check_meeting_place()


@pytest.mark.parametrize("wrong", [{"RANK": "4"}, {"RANK": "x"}, {"LOCAL_RANK": "2"}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TORCHRUN | wrong)
    with pytest.raises(ConfigError, match="does not say which process"):
        launched()


def test_as_many_devices_as_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TORCHRUN)
    assert as_many_devices(["lr=1"]) == ["devices=4"]
    assert as_many_devices(["devices=auto"]) == ["devices=4"]
    with pytest.raises(ConfigError, match="devices=2: 4 processes were started"):
        as_many_devices(["devices=2"])
