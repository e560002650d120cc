"""The mirror on a real S3 server that runs here, with what such servers do: refuse, answer late, lie, die."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.bucket import NAME, Bucket, bucket_server
from tests.helpers.program import start
from tests.helpers.runs import EVERY, STEPS, WORDS, record, same_end
from trainctl.checkpoint.format import MODEL

pytest.importorskip("moto")
pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow
URL = f"s3://{NAME}/runs/first"
WORK = (
    *WORDS,
    "checkpoint.every_steps=1",
    "checkpoint.keep_last=2",
    "display.mode=none",
    "hydra.run.dir=run",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with bucket_server() as found:
        yield found


@pytest.fixture
def bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    import fsspec

    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    server.fault = lambda request: ""
    filesystem = server.filesystem(fsspec)
    for key in server.keys():  # noqa: SIM118 - a method
        filesystem.rm_file(f"{NAME}/{key}")
    server.asked.clear()
    return server


def puts(*kinds: str) -> Callable[[dict[str, Any]], str]:
    """A fault for each of the first writes below the run's place, then none."""
    left = list(kinds)

    def fault(request: dict[str, Any]) -> str:
        if request["REQUEST_METHOD"] not in ("PUT", "POST") or not left:
            return ""
        return left.pop(0)

    return fault


@pytest.mark.parametrize(
    "kinds",
    [(), ("500",) * 9, ("",) * 6 + ("500",) * 4, ("slow",) * 30, ("half", "", "half", "half", "", "half")],
    ids=["none", "500", "500 later", "slow", "half"],
)
def test_all_arrives_whatever_the_server_does_for_a_while(
    kinds: tuple[str, ...], bucket: Bucket, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    bucket.fault = puts(*kinds)
    outcome = trainctl(*WORK, f"checkpoint.mirror={URL}")
    assert outcome.code == 0, outcome.err
    noted = record(tmp_path / "run")["mirror"]
    assert (noted["lacks"], noted["error"]) == ([], None)
    local = {
        f"runs/first/{path.relative_to(tmp_path / 'run')}": path.stat().st_size
        for path in (tmp_path / "run/checkpoints").rglob("*.*")
    }
    there = {key: size for key, size in bucket.keys().items() if "/checkpoints/" in key}
    assert there == local
    evaluated = trainctl("eval", URL)
    assert "the same as recorded in the run, to the last digit" in evaluated.out, evaluated.err


@pytest.mark.parametrize("kind", ["refused", "500", "gone"])
def test_an_outage_that_lasts_stops_nothing(
    kind: str, bucket: Bucket, trainctl: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainctl.training.hooks.mirror.TRIES", 2)
    bucket.fault = lambda request: kind
    if kind == "gone":
        bucket.stop()
    try:
        outcome = trainctl(*WORK, f"checkpoint.mirror={URL}")
    finally:
        if kind == "gone":
            bucket.start()
    assert outcome.code == 0, outcome.err
    noted = record(tmp_path / "run")["mirror"]
    assert noted["error"]
    assert noted["lacks"] == [path.name for path in sorted((tmp_path / "run/checkpoints").iterdir())]
    bucket.fault = lambda request: ""
    assert trainctl("eval", URL).code in (4, 5)


def test_a_kill_in_the_middle_of_any_upload_leaves_a_run_that_goes_on_to_the_same_bits(
    bucket: Bucket, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    import fsspec

    assert trainctl(*WORDS, *EVERY, "hydra.run.dir=whole", "checkpoint.keep_last=2").code == 0
    for number in (5, 14, 19):
        url, running = f"s3://{NAME}/runs/killed-{number}", list[Any]()

        def half_way(
            request: dict[str, Any], seen: list[str], running: list[Any] = running, number: int = number
        ) -> str:
            seen.append(request["REQUEST_METHOD"])
            if request["REQUEST_METHOD"] == "PUT" and seen.count("PUT") >= number:
                running[0].kill()
                return "half"  # what had arrived until then
            return ""

        bucket.fault = partial(half_way, seen=[])
        where = (f"checkpoint.mirror={url}", f"hydra.run.dir=cut-{number}")
        process = start(*WORK[:-1], *where, cwd=tmp_path, **bucket.environment)
        running.append(process)
        process.communicate(timeout=120)
        bucket.fault = lambda request: ""
        assert process.returncode == -signal.SIGKILL
        outcome = trainctl("resume", url)
        if outcome.code == 4:  # killed before its first checkpoint was there
            assert not any(
                key.endswith("manifest.json") and "checkpoints" in key and f"killed-{number}" in key
                for key in bucket.keys()  # noqa: SIM118 - a method
            )
            continue
        assert outcome.code == 0, outcome.err
        resumed = max(
            (path.parent for path in tmp_path.glob("outputs/*/*/run.json")), key=lambda p: p.stat().st_mtime
        )
        assert same_end(tmp_path / "whole", resumed)
        with bucket.filesystem(fsspec).open(f"{url}/checkpoints/step-{STEPS:08d}/{MODEL}") as file:
            assert file.read() == (resumed / f"checkpoints/step-{STEPS:08d}" / MODEL).read_bytes()


def test_the_commands_of_the_page_run(bucket: Bucket, trainctl: Callable[..., Any]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "bring.md").read_text()
    lines = [
        line for line in page.splitlines() if line.startswith("trainctl ") and "s3://bucket/runs" in line
    ]
    assert len(lines) == 3
    for line in lines:
        outcome = trainctl(*line.split()[1:])
        assert outcome.code == 0, outcome.err
    assert "runs/first/checkpoints/step-00000160/manifest.json" in bucket.keys()  # noqa: SIM118 - a method
