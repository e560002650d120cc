"""Each field of each file that a verb reads, damaged in each way; the fields are those of the real files."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainctl.checkpoint.format import MODEL, STATE, TRAINING, manifest_bytes, manifest_entry
from trainctl.cli.main import main

_SECONDS = 5.0
_ROOM = 2 << 30
_HERE = "FUZZHERE"
_DEEP = 100_000
# What stands in the place of a field, as JSON; YAML reads it, too.
VALUES = {
    "null": "null",
    "true": "true",
    "0": "0",
    "-1": "-1",
    "2.5": "2.5",
    "1e400": "1e400",
    "NaN": "NaN",
    "2**63": str(2**63),
    "10**400": "1" + "0" * 400,
    "no text": '""',
    "text": '"x"',
    "control characters": r'"\u0007\u001b[31m\u0000"',
    "half a character": r'"\ud800"',
    "a reference to nothing": '"${nothing}"',
    "no list": "[]",
    "a list": '["x", null]',
    "no table": "{}",
    "a table": '{"x": 1}',
    "900 deep": "[" * 900 + "]" * 900,
}
_NOTHING = object()


@dataclass(frozen=True)
class Damage:
    """A file, what is done to it, and its new content: None removes it, ``...`` puts a folder there."""

    file: Path
    what: str
    content: Any

    def do(self) -> None:
        """Write it; a checkpoint's manifest follows, so that the damage is read."""
        self.file.unlink()
        if self.content is ...:
            self.file.mkdir()
        elif self.content is not None:
            self.file.write_bytes(self.content)
        if self.file.name in (MODEL, TRAINING, STATE) and isinstance(self.content, bytes):
            contents = {name: (self.file.parent / name).read_bytes() for name in (MODEL, TRAINING, STATE)}
            entries = {name: manifest_entry(content) for name, content in contents.items()}
            (self.file.parent / "manifest.json").write_bytes(manifest_bytes(entries))


def damages(file: Path) -> Iterator[Damage]:
    """Every field of ``file`` in each way, then the file as a whole."""
    content = file.read_bytes()
    for at, text in _fields_damaged(file.suffix, content):
        yield Damage(file, at, text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    half = len(content) // 2
    for what, whole in {
        "removed": None,
        "a folder": ...,
        "empty": b"",
        "cut": content[:half],
        "not UTF-8": content[:half] + b"\xff\xfe\x00" + content[half:],
        "NUL bytes": bytes(len(content)),
        "nested": b"[" * _DEEP,
        "nested and whole": b'{"version":' * _DEEP + b"1" + b"}" * _DEEP,
        "a number of 5000 digits": b'{"version": ' + b"1" * 5000 + b"}",
        "a list": b"[1]\n",
        "a text": b'"x"\n',
        "twice": content * 2,
    }.items():
        yield Damage(file, what, whole)


def _fields_damaged(suffix: str, content: bytes) -> Iterator[tuple[str, str | bytes]]:
    if suffix == ".json":
        yield from _documents(json.loads(content), json.dumps)
    elif suffix == ".yaml":
        yield from _documents(yaml.safe_load(content), _as_yaml)
    elif suffix == ".jsonl":
        lines = content.decode().splitlines()
        kinds = {tuple(json.loads(line)): number for number, line in enumerate(lines)}
        for number in kinds.values():
            for at, line in _documents(json.loads(lines[number]), json.dumps):
                yield (
                    f"line {number + 1}: {at}",
                    "\n".join([*lines[:number], line, *lines[number + 1 :]]) + "\n",
                )
    elif suffix == ".safetensors":
        length = int.from_bytes(content[:8], "little")
        for at, header in _documents(json.loads(content[8 : 8 + length]), json.dumps):
            encoded = header.encode()
            yield at, struct.pack("<Q", len(encoded)) + encoded + content[8 + length :]


def _as_yaml(document: Any) -> str:
    return yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False)


def _documents(document: Any, dumped: Callable[[Any], str]) -> Iterator[tuple[str, str]]:
    """``document`` with each of its fields missing, and with each value."""
    for path in paths(document):
        name = ".".join(map(str, path))
        yield f"{name} missing", dumped(_changed(document, path, _NOTHING))
        marked = dumped(_changed(document, path, _HERE))
        for what, raw in VALUES.items():
            yield f"{name} = {what}", marked.replace(f'"{_HERE}"', raw).replace(_HERE, raw)


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each field; of a list, or of tables that are alike, the first one and the last one."""
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
        if len({tuple(item) if isinstance(item, dict) else key for key, item in value.items()}) == 1:
            keys = [*keys[:1], *keys[1:][-1:]]
    elif isinstance(value, list):
        keys = sorted({0, len(value) - 1}) if value else []
    for key in keys:
        yield (*at, key)
        yield from paths(value[key], (*at, key))


def _changed(document: Any, path: Sequence[Any], value: Any) -> Any:
    document = copy.deepcopy(document)
    *way, last = path
    node = document
    for key in way:
        node = node[key]
    if value is _NOTHING:
        del node[last]
    else:
        node[last] = value
    return document


# ------------------------------------------------------------------- verbs


@dataclass(frozen=True)
class Verb:
    """A command, and the files that it reads, as patterns.

    Attributes:
        every: of the damages it gets every N-th, a prime; verbs share readers, and all of it takes hours.
        differs: exit 1 is an answer.
    """

    words: tuple[str, ...]
    reads: tuple[str, ...]
    every: int
    differs: bool = False

    def __str__(self) -> str:
        return " ".join(word for word in self.words if "=" not in word) or "train"


QUICK = (
    "threads=1",
    "display.mode=none",
    "dataset=csv",
    "dataset.path=table.csv",
    "loss=mse",
    "model.hidden=[4]",
)
_TRAINED = ("run.json", "config.yaml", "checkpoints/step-00000004/*")
_RUN = tuple(f"run/{name}" for name in (*_TRAINED, "config.history.yaml", ".lock"))
_METRICS, _CONF = ("run/metrics.jsonl",), ("conf/*/*.yaml", "conf/*.yaml")
_LEDGER = ("{0}/sweep.json", "{0}/jobs.jsonl", "{0}/ledger/*.json", "{0}/1/run.json", "{0}/1/config.yaml")
_SWEEP, _SEARCH = ([name.format(place) for name in _LEDGER] for place in ("sweep", "search"))
_OWN = ("optim=own", "experiment=own", "init_from=run")
VERBS = (
    Verb(("resume", "run"), (*_RUN, *_METRICS, "table.csv", "run/overrides.yaml"), 17),
    Verb(("eval", "run", "--json"), (*_RUN, "table.csv"), 11),
    Verb(("predict", "run", "--input", "new.csv", "--output", "out.csv"), (*_RUN, "new.csv"), 19),
    Verb(("export", "run", "--format", "safetensors", "--output", "out.safetensors", "--force"), _RUN, 23),
    Verb(("verify", "run", "--steps", "2"), (*_RUN, *_METRICS), 47, differs=True),
    Verb(
        ("compare", "run", "sweep", "search", "--json", "c.json", "--csv", "c.csv", "--html", "c.html"),
        ("run/run.json", "run/config.yaml", "run/.lock", *_METRICS, *_SWEEP, *_SEARCH),
        13,
    ),
    Verb(("replay", "bad"), ("bad/run.json", "bad/capsules/*/*"), 11, differs=True),
    Verb((*QUICK, "init_from=run", "train.max_steps=1", "hydra.run.dir=new"), _RUN, 131),
    Verb((*QUICK, *_OWN, "train.max_steps=1", "hydra.run.dir=new"), _CONF, 23),
    Verb(("--cfg", "job", "--resolve", *_OWN), _CONF, 19),
    Verb(("trace", *QUICK, *_OWN), (*_CONF, *_RUN), 193),
    Verb(("tune", "lr", "--steps", "20", *QUICK, *_OWN), _CONF, 29),
    Verb(("plan", "-m", *QUICK, *_OWN, "seed=1,2"), _CONF, 31),
    Verb(("ls", "optim=own", "experiment"), _CONF, 3),
    Verb(("resume", "sweep"), _SWEEP, 41, differs=True),
    Verb(("resume", "search"), (*_SEARCH, "search/search.jsonl"), 73, differs=True),
)


@contextmanager
def bounded() -> Iterator[None]:
    """No call takes long, or much memory: one that would raises."""

    def stop(signal: int, frame: object) -> None:
        raise TooSlow

    old = signal.signal(signal.SIGPROF, stop)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _ROOM, limits[1]))
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, old)
        resource.setrlimit(resource.RLIMIT_AS, limits)


class TooSlow(BaseException):
    """A command computes for longer than anybody waits."""


class Bench:
    """The files as they should be, in the current folder and in ``whole``."""

    def __init__(self, whole: Path) -> None:
        self.whole = whole
        self._seen = self._stamps()

    def files(self, verb: Verb) -> list[Path]:
        """What ``verb`` reads."""
        found = [path for pattern in verb.reads for path in sorted(Path().glob(pattern)) if path.is_file()]
        assert found, verb
        return found

    def tried(self, verb: Verb, damage: Damage, call: Callable[..., Any]) -> str | None:
        """Run ``verb`` on the damaged file and put everything back; returns what was wrong."""
        try:
            damage.do()
            signal.setitimer(signal.ITIMER_PROF, _SECONDS)
            try:
                outcome = call(*verb.words)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            wrong = _wrong(verb, outcome)
        except TooSlow:
            wrong = f"computed for {_SECONDS} seconds"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong = f"{type(error).__name__}: {error}"
        self._put_back()
        return wrong and f"{verb}: {damage.file}: {damage.what}: {wrong}"

    def _stamps(self) -> dict[str, tuple[int, int]]:
        found = {}
        for folder, _, names in os.walk("."):
            for name in names:
                path = f"{folder}/{name}"
                status = os.lstat(path)
                found[path] = (status.st_mtime_ns, status.st_ino)
        return found

    def _put_back(self) -> None:
        now = self._stamps()
        for path in {*now, *self._seen}:
            if now.get(path) == self._seen.get(path):
                continue
            if path not in self._seen:
                Path(path).unlink()
                continue
            target = Path(path)
            if target.is_dir():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy2(self.whole / path, target)
            status = target.lstat()
            self._seen[path] = (status.st_mtime_ns, status.st_ino)
        for path in Path().iterdir():
            if path.is_dir() and not (self.whole / path).exists():
                shutil.rmtree(path)


def _wrong(verb: Verb, outcome: Any) -> str | None:
    text = outcome.out + outcome.err
    if outcome.code not in ((0, 1, 2, 3, 4, 5, 6, 7, 8) if verb.differs else (0, 2, 3, 4, 5, 6, 7, 8)):
        return f"exit {outcome.code}: {outcome.err[-500:]}"
    if "internal error" in text or "Traceback (" in text:
        return text[-500:]
    if set(text) & set("\x00\x07\x1b"):
        return f"control characters: {text!r}"
    if outcome.code and not text.strip():
        return f"exit {outcome.code} without a word"
    if verb.words[0] == "resume" and outcome.code == 1:
        rows = [json.loads(path.read_text()) for path in Path(verb.words[1]).glob("ledger/*.json")]
        if unexplained := [row["reason"] for row in rows if row.get("exit_code") == 1]:
            return f"a job: {unexplained}"
    return None


def make_places() -> None:
    """Everything that the verbs read, in the current folder."""
    rows = [f"{n},{n % 7 - 3}.5,{'red' if n % 3 else 'blue'},{100 + n % 11}.25\n" for n in range(60)]
    Path("table.csv").write_text("id,width,colour,y\n" + "".join(rows))
    Path("new.csv").write_text(
        "id,width,colour\n" + "".join(row.rpartition(",")[0] + "\n" for row in rows[:9])
    )
    for name, text in {
        "optim/own.yaml": "# Mine\nname: adam\nlr: 0.01\nbetas: [0.9, 0.99]\n",
        "experiment/own.yaml": "# @package _global_\ndefaults:\n  - override /scheduler: cosine\n"
        "train:\n  epochs: 2\n  batch_size: 16\n",
        "local.yaml": "seed: 3\nguard:\n  loss: true\n",
    }.items():
        path = Path("conf", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    short = ("train.epochs=2", "train.max_steps=4", "batch_size=16")
    kept = (
        "train.ema=0.9",
        "scheduler=reduce_on_plateau",
        "checkpoint.every_steps=1",
        "checkpoint.keep_last=9",
    )
    for words, code in (
        ((*QUICK, *short, *kept, "hydra.run.dir=run", "name=mine"), 0),
        (("resume", "run", "train.max_steps=6"), 0),
        ((*QUICK, *short, "optim.lr=1e38", "guard=full", "hydra.run.dir=bad"), 6),
        (("-m", *QUICK, *short, "seed=1,2", "hydra/launcher=basic", "hydra.sweep.dir=sweep"), 0),
        (
            ("-m", *QUICK, *short, "lr=interval(0.001,0.1)", "hydra/sweeper=optuna", "hydra.sweeper.trials=2",
             "hydra/launcher=basic", "hydra.sweep.dir=search"),
            0,
        ),
    ):  # fmt: skip
        assert main(list(words)) == code, words
    for step in (5, 6):
        shutil.rmtree(f"run/checkpoints/step-{step:08d}")
    _as_killed(Path("run"), best=4)
    journal = Path("search/search.jsonl")
    lines = [
        line for line in journal.read_text().splitlines(keepends=True) if not _tells(json.loads(line), 1)
    ]
    journal.write_text("".join(lines))
    for place in ("sweep", "search"):
        _as_killed(Path(place, "1"))
        row = Path(place, "ledger", "1.json")  # of a job whose result was not told yet
        row.write_text(json.dumps({**json.loads(row.read_text()), "state": "interrupted", "exit_code": 130}))


def _tells(event: dict[str, Any], trial: int) -> bool:
    """Whether an event of a search is the end of a trial, or a note on it."""
    return event.get("trial_id") == trial and event["op_code"] in (6, 8)


def _as_killed(run: Path, best: int | None = None) -> None:
    record = json.loads((run / "run.json").read_text())
    record |= {"status": "running", "exit_code": None, "ended": None, "test": None}
    record["best"] |= {"step": best} if best else {}
    (run / "run.json").write_text(json.dumps(record))
