"""Files of runs and sweeps, changed at random: verbs answer with an exit code of the list and a reason."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.reliability.children import Ended, Trial, none_missed, spawn
from tests.reliability.hostile import BAD, INPUT, SWEEP
from tests.reliability.malice import list_files
from tests.reliability.runs import RUN, Patch, nothing
from tests.reliability.sweeps import workers_from_this_process
from trainctl.cli import main as cli
from trainctl.runs import record

_NEW = (
    "init_from=outputs/run", "train.max_steps=1", "display.mode=none", "dataset=synthetic",
    "dataset.shape=[8]", "dataset.outputs=3", "model.hidden=[8]", "threads=1", "hydra.run.dir=new",
)  # fmt: skip
_SHORT = ("train.max_steps=20", "--allow-change")
_LAST = "checkpoints/step-*"
_FILES = ("run.json", "config.yaml", "overrides.yaml", "metrics.jsonl", ".lock", "train.log")
_CHECKPOINT = ("state.json", "manifest.json", "model.safetensors", "training.safetensors")
_SWEEP = ("sweep.json", "jobs.jsonl", "ledger/*.json", "1/run.json", "1/config.yaml", "1/metrics.jsonl")
_DEEP: list[Any] = []
for _ in range(300):
    _DEEP = [_DEEP]
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**30,
    -(10**30), 10**400, "", "a", "1", "nan", "\0", "\x1b[2J", "\ud800", "../../x", "/", "~", "x" * 100_000,
    "🙂", "${seed}", "${nothing}", "${", "%s", [], {}, [None], [[]], {"": 1}, {"a": {"b": None}},
    [1, "a", None], _DEEP, list(range(2000)), "2026-13-45T99:99:99", "step-00000001", "done", "running",
)  # fmt: skip
# Of a difference, of a step that is finite this time, of failed jobs.
_ONE = ("verify", "replay", "resume-sweep")
_CODES = (0, 2, 3, 4, 5, 6, 7, 8)

VERBS: Mapping[str, tuple[tuple[str, ...], Path]] = {
    "resume": (("resume", str(RUN), *_SHORT), RUN),
    "eval": (("eval", str(RUN)), RUN),
    "predict": (("predict", str(RUN), "--input", INPUT, "--output", "p.csv"), RUN),
    "verify": (("verify", str(RUN)), RUN),
    "export": (("export", str(RUN), "--format", "safetensors"), RUN),
    "compare": (("compare", str(RUN), "--json", "-"), RUN),
    "init_from": (_NEW, RUN),
    "replay": (("replay", str(BAD)), BAD),
    "resume-sweep": (("resume", str(SWEEP)), SWEEP),
    "compare-sweep": (("compare", str(SWEEP), "--html", "page.html"), SWEEP),
}


def at_random(made: Path, count: int, seed: int, patch: Patch = nothing) -> list[Trial]:
    """So many changes of one file each, each with a verb that reads it; ``made`` is that of ``hostile``."""
    verbs = list(VERBS)
    return [
        Trial(
            f"{verbs[number % len(verbs)]}, change {seed + number}",
            partial(_tried, verbs[number % len(verbs)], seed + number, made, patch),
        )
        for number in range(count)
    ]


def _tried(verb: str, seed: int, made: Path, patch: Patch, folder: Path) -> str | None:
    shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True)
    words, place = VERBS[verb]
    what = _change(folder / place, random.Random(f"{verb} {seed}"))

    def work() -> int:
        patch()
        workers_from_this_process()
        return cli.main(words)

    ended = spawn(work, folder, timeout=60)
    wrong = _wrong(verb, ended) or _failed_jobs(folder / place)
    return f"{what}: {wrong}" if wrong else None


def _wrong(verb: str, ended: Ended) -> str | None:
    if ended.timed_out or ended.code not in ((*_CODES, 1) if verb in _ONE else _CODES):
        return str(ended)
    if "Traceback (" in ended.text or "error: internal" in ended.text:
        return f"said the wrong thing: {ended}"
    if ended.code > 1 and "error:" not in ended.text:
        return f"said nothing: {ended}"
    return None


def _failed_jobs(sweep: Path) -> str | None:
    """A job that ended with an internal error."""
    for path in sweep.glob("ledger/*.json") if sweep.name == SWEEP.name else ():
        try:
            row = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and row.get("state") == "failed" and row.get("exit_code") == 1:
            return f"job {path.stem} failed: {row.get('reason')}"
    return None


# ------------------------------------------------------------------- changes


def _change(place: Path, draw: random.Random) -> str:
    """Change one file; returns what was done."""
    patterns = list(_SWEEP if place.name == SWEEP.name else _FILES)
    if place.name != SWEEP.name:
        folder = "capsules/*" if place.name == BAD.name else _LAST
        patterns += [f"{folder}/{name}" for name in _CHECKPOINT]
    if place.name == SWEEP.name and draw.random() < 0.8:
        _leave(place, draw)
    path = draw.choice(sorted(place.glob(draw.choice(patterns))) or [place / "run.json"])
    if not path.exists():
        return "nothing was there to change"
    before = path.read_bytes()
    how = (
        _in_the_tree
        if path.suffix in (".json", ".jsonl", ".yaml") and draw.random() < 0.75
        else _in_the_bytes
    )
    content, what = how(path, before, draw)
    path.write_bytes(content)
    # Somebody who changes a checkpoint can list it, too.
    if path.name in _CHECKPOINT and path.name != "manifest.json" and draw.random() < 0.8:
        list_files(path.parent)
        what += ", listed"
    return f"{path.relative_to(place)} {what}"


def _leave(sweep: Path, draw: random.Random) -> None:
    """Something to do for a resume: jobs that were interrupted, or have not begun."""
    for number in ("1", "2"):
        state = draw.choice(("interrupted", "waiting"))
        if state == "waiting":
            shutil.rmtree(sweep / number)
        (sweep / "ledger" / f"{number}.json").write_text(json.dumps({"state": state, "attempts": 1}))
        if number == "1" and state == "waiting" and draw.random() < 0.5:
            return


def _in_the_tree(path: Path, before: bytes, draw: random.Random) -> tuple[bytes, str]:
    lines = before.decode().splitlines() if path.suffix == ".jsonl" else [before.decode()]
    number = draw.randrange(len(lines))
    load: Callable[[str], Any] = yaml.safe_load if path.suffix == ".yaml" else json.loads
    tree, done = load(lines[number]), []
    for _ in range(draw.choice((1, 1, 1, 2))):
        tree, said = _node(tree, draw)
        done.append(said)
    # The values of YAML as JSON, which it contains; a lone surrogate is written as its escape.
    lines[number] = json.dumps(tree, allow_nan=True)
    return ("\n".join(lines) + "\n").encode(), f"{'; '.join(done)}, line {number}"


def _node(tree: Any, draw: random.Random) -> tuple[Any, str]:
    """One node replaced, taken away, renamed, doubled or added."""
    places = list(_nodes(tree))
    if not places or draw.random() < 0.02:
        value = draw.choice(_VALUES)
        return value, f"all replaced by {value!r:.40}"
    above, key = draw.choice(places)
    kind = draw.choice(("replaced", "replaced", "replaced", "gone", "renamed", "doubled", "swapped"))
    if kind == "gone":
        del above[key]
    elif kind == "renamed" and isinstance(above, dict):
        above[draw.choice(("", "a", "name", "step", "_target_", str(key).upper()))] = above.pop(key)
    elif kind == "doubled":
        above[key] = [above[key], above[key]]
    elif kind == "swapped":
        other, name = draw.choice(places)
        if isinstance(other, dict | list):
            above[key] = json.loads(json.dumps(other[name])) if _has(other, name) else None
    else:
        kind, above[key] = f"= {(value := draw.choice(_VALUES))!r:.40}", value
    return tree, f"{key} {kind}"


def _has(above: Any, key: Any) -> bool:
    return key in above if isinstance(above, dict) else key < len(above)


def _nodes(tree: Any) -> Any:
    """Each place in a tree: what holds it, and its key."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _nodes(value)


def _in_the_bytes(path: Path, before: bytes, draw: random.Random) -> tuple[bytes, str]:
    kind = draw.choice(("flipped", "cut", "emptied", "doubled", "noise", "longer", "replaced", "gone"))
    size = max(1, len(before))
    at = draw.randrange(size)
    if kind == "flipped":
        content = bytearray(before)
        for _ in range(draw.choice((1, 3, 30)) if before else 0):
            content[draw.randrange(len(before))] ^= 1 << draw.randrange(8)
        return bytes(content), kind
    noise = draw.randbytes(draw.choice((1, 8, 1000)))
    return {
        "cut": before[:at],
        "emptied": b"",
        "doubled": before + before,
        "noise": noise,
        "longer": before + noise,
        "replaced": before[:at] + noise + before[at + len(noise) :],
        "gone": before[:at] + before[at + draw.randrange(size) :],
    }[kind], f"{kind} at {at}"


def _believes_everything() -> None:
    """run.json is taken as it is."""
    record._USABLE = {}


def bites(made: Path, count: int, seed: int) -> list[Trial]:
    """The same with a program that checks no record: some trial must be missed."""

    def noticed(folder: Path) -> str | None:
        return none_missed(at_random(made, count, seed, _believes_everything), folder)

    return [Trial("the checks of a record taken away", noticed)]
