"""Prove that resuming is exact: train segments again and compare."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.cli.options import RUN, TRUST, Command, whole_number
from trainctl.errors import CheckpointError, DirectoryTakenError, TrainctlError
from trainctl.paths import short_path
from trainctl.registry import trust
from trainctl.runs import metrics_file
from trainctl.runs.directory import find, is_training
from trainctl.runs.record import read_record
from trainctl.training.display import counted
from trainctl.training.startup import collector_paused, importing

if TYPE_CHECKING:
    from trainctl.analysis.verify import Segment
    from trainctl.config.stored_config import ConfigVersion
    from trainctl.runs.metrics_file import Recorded

# A stacked model is summed in another order: its numbers are those of one by one to a float's last digits, of
# which each step takes over some, and a sample near the border may fall on the other side of it.
_FUSED = 0.02
COMMAND = Command(
    __name__,
    __doc__,
    (RUN,),
    (whole_number("--steps", "most steps to re-run from each checkpoint", "200"), TRUST),
    (
        ("The newest run, from each checkpoint that it kept.", "trainctl verify last"),
        ("A long run, briefly.", "trainctl verify first --steps 20"),
    ),
    {1: "something differs, or an internal error", 3: "", 4: "", 7: "a process is training in it", 8: ""},
)


def run(words: list[str]) -> int:
    """Train segments of a run again, and compare.

    From the beginning and from every checkpoint, to the next checkpoint or for ``--steps`` (200) steps: each
    loss and learning rate, each evaluation, and all that the next checkpoint holds. The run directory is not
    written to.

    Returns the exit code: 0 when everything is identical, 1 when something differs. Raises ConfigError for
    what cannot be verified, CheckpointError without a usable checkpoint, UnsafeInputError for changed
    plugins, DirectoryTakenError while another process trains in the directory.
    """
    asked = COMMAND.parse(words)
    directory = find(asked.run)
    record = read_record(directory)
    if is_training(directory):
        raise DirectoryTakenError(
            f"{directory}: another process is training in it", "wait for it, or stop it first"
        )
    try:
        code = _verify_run(directory, record, asked["--steps"], trust_plugins=asked["--trust-plugins"])
    except TrainctlError:
        _refuse_trained(directory, record)
        raise
    if code != 0:
        _refuse_trained(directory, record)
    return code


def _refuse_trained(directory: Path, record: Mapping[str, Any]) -> None:
    """Raise DirectoryTakenError where the run goes on, or went on, since ``record`` was read."""
    if is_training(directory) or read_record(directory) != record:
        raise DirectoryTakenError(
            f"{directory}: another process has begun to train in it", "verify it again when that has ended"
        )


def _verify_run(directory: Path, record: Mapping[str, Any], limit: int, *, trust_plugins: bool) -> int:
    with importing():
        from trainctl.analysis import verify as verifying
    kept, damaged = verifying.find_checkpoints(directory / "checkpoints")
    versions = _versions(directory, trust_plugins=trust_plugins)
    recorded = metrics_file.recorded(directory / "metrics.jsonl")
    segments = verifying.plan(kept, recorded, versions, limit, record)
    if all(segment.reason for segment in segments):
        reasons = "".join(f"; {reason}" for reason in dict.fromkeys(each.reason for each in segments))
        raise CheckpointError(
            f"{directory}: no checkpoint has recorded steps after it{reasons}",
            "checkpoint.keep_last=N keeps more of them",
        )
    steps = max([*recorded.steps, kept[-1].step])
    print(f"run {short_path(directory)}: {steps} steps, {counted(len(kept), 'checkpoint')}")
    other = _environment(versions[-1], record)
    for notice in (*(f"damaged, not used: {reason}" for reason in damaged), *other, *_changes(versions)):
        print(notice)
    return _verify(segments, record, recorded, steps, same_environment=not other)


def _verify(
    segments: Sequence[Segment],
    record: Mapping[str, Any],
    recorded: Recorded,
    steps: int,
    *,
    same_environment: bool,
) -> int:
    """Train the segments of a run of so many steps again, print a line each, and return the exit code."""
    import torch

    from trainctl.analysis.verify import Checker

    threads, tolerance = torch.get_num_threads(), _FUSED if record.get("engine") == "fused" else 0.0
    same = "the same" if tolerance else "identical"
    first, again = None, set[int]()
    for segment in segments:
        said = f"not verified: {segment.reason}"
        if not segment.reason:
            # Building is threaded, too, and began with torch's own number of threads.
            torch.set_num_threads(threads)
            checked = Checker(segment, recorded, record, tolerance)
            first = first or checked.difference
            again.update(range(segment.start, segment.end))
            evaluations = f", {counted(checked.evaluations, 'evaluation')}" if checked.evaluations else ""
            said = f"{same} ({counted(checked.steps, 'step')}{evaluations})"
            said = said if checked.difference is None else f"differs: {checked.difference}"
        print(f"step {segment.start} → {segment.end}: {said}", flush=True)
    if first is None:
        exact = f"to {tolerance:.0%} (engine fused, re-run one by one)" if tolerance else "to the last bit"
        print(f"{same}: {len(again)} of {counted(steps, 'step')} re-run, {exact}")
        return 0
    print(f"differs, first in: {first}")
    if same_environment:
        print("what was stored was changed, or the data, code or machine is another one")
    else:
        print("only the same machine, versions and threads give the same numbers")
    return 1


def _changes(versions: Sequence[ConfigVersion]) -> list[str]:
    return [
        f"settings changed at step {before.until}: {', '.join(map(str, after.changes(before)))}"
        for before, after in pairwise(versions)
    ]


def _versions(directory: Path, *, trust_plugins: bool) -> list[ConfigVersion]:
    trusted = trust.checker(directory, trust_plugins=trust_plugins)
    with collector_paused():
        from trainctl.config.connections import refuse_connections
        from trainctl.config.stored_config import read_versions

        versions = read_versions(directory, trusted, tracked=False)
    for version in versions[:-1]:
        trusted(version.plugins)
    for version in versions:
        refuse_connections(version.config, directory, trust_plugins=trust_plugins)
    return versions


def _environment(version: ConfigVersion, record: Mapping[str, Any]) -> list[str]:
    """A notice where versions, device or threads are not those of the run."""
    import torch

    from trainctl.analysis.verify import recorded_config
    from trainctl.training.runtime import choose_device, device_name

    then, config = record.get("environment") or {}, recorded_config(version, record)
    now = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(choose_device(config.device)),
        "threads": config.threads,
    }
    other = [
        f"{key} {then.get(key, 'not recorded')} → {now[key]}" for key in now if then.get(key) != now[key]
    ]
    remedy = "exact only on the same machine, versions, threads"
    return [f"not as it was trained: {', '.join(other)}; {remedy}"] if other else []
