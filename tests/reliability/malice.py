"""Files of a run that somebody else has put there: refused, with nothing done, read or changed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.reliability.children import Trial, spawn
from tests.reliability.disk import BEFORE, Disk, contents, killing
from tests.reliability.runs import OUTPUTS, RUN, Course, Patch
from trainctl.checkpoint.format import MODEL, STATE, TRAINING, manifest_bytes, manifest_entry
from trainctl.cli.main import main
from trainctl.config import safety
from trainctl.registry import trust
from trainctl.runs import record

_ROOM = 1024
_GROWTH = 64
_HUGE = 1 << 40
_CANARY = "import os\nos.mkdir('canary')\n"
_NAMES = (
    "run.json",
    "config.yaml",
    "overrides.yaml",
    "config.history.yaml",
    "metrics.jsonl",
    "train.log",
    ".lock",
)
# What may change where a run is found unusable only when it is built.
_RECORDS = ("run/run.json", "run/train.log", "run/.lock", "latest")

_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 9)
)

Plant = Callable[[Path, Path], None]
"""Puts something into the run; its other argument is a folder outside."""


@dataclass(frozen=True)
class Evil:
    """Something planted, and the exit codes that refuse it.

    Attributes:
        late: it is seen only when the run is built, which the record then says.
        command: what is called.
    """

    name: str
    plant: Plant
    codes: tuple[int, ...]
    late: bool = False
    command: tuple[str, ...] = ("resume", str(RUN))


class _Runs:
    """Pickled, it makes a folder when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("canary",)


def prepare(course: Course, root: Path) -> float:
    """An interrupted run with one checkpoint, in ``root``; returns the megabytes that resuming it takes."""
    (root / OUTPUTS).mkdir(parents=True)

    def work() -> int:
        Disk(root / OUTPUTS, killing(course.saved[2][0] - 3, BEFORE)).install()
        return course.start()

    spawn(work, root)
    found = sorted(path.name for path in (root / RUN / "checkpoints").glob("step-*"))
    assert found == ["step-00000008"], found
    # Its second step is not finite, and kept.
    words = [*course.words, "optim.lr=1e38", "hydra.run.dir=outputs/bad"]
    ended = spawn(lambda: main(words), root)
    assert ended.code == 6, ended
    twin = root / "twin"
    shutil.copytree(root / OUTPUTS, twin / OUTPUTS, symlinks=True)
    ended = spawn(lambda: main(["resume", str(RUN)]), twin)
    assert ended.code == 0, ended
    return ended.megabytes


def planted(root: Path, normal: float) -> list[Trial]:
    """Each thing in each place."""
    return [Trial(evil.name, partial(_tried, evil, root, normal)) for evil in _all()]


def bites(root: Path, normal: float) -> list[Trial]:
    """The same with a safeguard taken away: what it refuses must be missed."""
    known = {evil.name: evil for evil in _all()}

    def noticed(evil: Evil, patch: Patch, folder: Path) -> str | None:
        return None if _tried(evil, root, normal, folder, patch) is not None else "nothing was missed"

    return [Trial(fault, partial(noticed, known[name], patch)) for fault, (patch, name) in FAULTS.items()]


def _calls_allowed() -> None:
    safety._raise_for = lambda unsafe: None


def _plugins_allowed() -> None:
    trust.refuse_untrusted = lambda named, directory: None


def _links_allowed() -> None:
    record._refuse_foreign = lambda directory: None


FAULTS: dict[str, tuple[Patch, str]] = {
    "calls in configs are allowed": (_calls_allowed, "_target_ in model"),
    "plugins are imported unasked": (_plugins_allowed, "a plugin that was changed"),
    "links out of a run are followed": (_links_allowed, "train.log led out of the run"),
}
"""The safeguard taken away, and the thing that it refuses."""


def _tried(evil: Evil, root: Path, normal: float, folder: Path, patch: Patch = lambda: None) -> str | None:
    shutil.copytree(root / OUTPUTS, folder / OUTPUTS, symlinks=True)
    outside = folder / "outside"
    outside.mkdir()
    for file in ("file", MODEL):
        (outside / file).write_bytes(b"not ours\n")
    evil.plant(folder / RUN, outside)
    before, abroad = contents(folder / OUTPUTS), contents(outside)

    def work() -> int:
        patch()
        return main(list(evil.command))

    ended = spawn(work, folder, timeout=10, room=_ROOM)
    if ended.code not in evil.codes or ended.timed_out:
        return f"expected {evil.codes}: {ended}"
    if "Traceback (" in ended.text or "error: internal" in ended.text:
        return f"said the wrong thing: {ended}"
    if (folder / "canary").exists() or list(folder.rglob("canary")):
        return f"code was run: {ended}"
    if ended.megabytes > normal + _GROWTH:
        return f"took {ended.megabytes:.0f} MB, {normal:.0f} are normal"
    if contents(outside) != abroad:
        return "something outside the run was changed"
    after = contents(folder / OUTPUTS)
    harmless = _RECORDS if evil.late else ("run/.lock",)
    changed = {name for name in {**before, **after} if before.get(name) != after.get(name)}
    changed = {name for name in changed if name not in harmless}
    return f"changed: {sorted(changed)}" if changed else None


# ------------------------------------------------------------------- what is planted


def _all() -> Iterator[Evil]:
    yield from _configs()
    yield from _records()
    yield from _links_and_kinds()
    yield from _checkpoint_files()
    yield from _headers()
    yield from _states()
    yield from _elsewhere()
    yield from _verified()
    yield from _capsules()


def _configs() -> Iterator[Evil]:
    put = partial(_put, "config.yaml")

    def edit(change: Callable[[dict[str, Any]], object]) -> Plant:
        def plant(run: Path, _: Path) -> None:
            tree = yaml.safe_load((run / "config.yaml").read_text())
            change(tree)
            (run / "config.yaml").write_text(yaml.safe_dump(tree))

        return plant

    call = {"_target_": "os.mkdir", "_args_": ["canary"]}
    for key in ("model", "optim", "dataset", "loss", "train", "checkpoint", "loader", "loop"):
        yield Evil(f"_target_ in {key}", edit(lambda tree, key=key: tree[key].update(call)), (3,))
    yield Evil("_target_ at the top", edit(lambda tree: tree.update(call)), (3,))
    yield Evil("_target_ in a list", edit(lambda tree: tree["train"].update(metrics=[{"x": call}])), (3,))
    yield Evil("_target_ for a value", edit(lambda tree: tree.update(seed=call)), (3,))
    yield Evil("a Python tag", put("!!python/object/apply:os.mkdir [canary]\n"), (2, 3, 4))
    yield Evil("a Python tag inside", put("seed: !!python/object/apply:os.mkdir [canary]\n"), (2, 3, 4))
    yield Evil("an unknown plugin", edit(lambda tree: tree.update(plugins=["./evil.py"])), (3,))
    yield Evil("a module as plugin", edit(lambda tree: tree.update(plugins=["antigravity"])), (3,))
    yield Evil("a plugin that was changed", _changed_plugin, (3,))
    yield Evil("plugins of another type", edit(lambda tree: tree.update(plugins={"a": 1})), (2, 3))
    yield Evil("config.yaml empty", put(""), (2, 4))
    yield Evil("config.yaml a list", put("[1, 2]\n"), (2, 4))
    yield Evil("config.yaml binary", put(bytes(range(256))), (2, 4))
    yield Evil("config.yaml a pickle", put(pickle.dumps(_Runs())), (2, 3, 4))
    yield Evil("config.yaml deep", put("a: " + "[" * 100_000), (2, 3, 4))
    yield Evil("config.yaml deep and whole", put("a: " + "{a: " * 3000 + "1" + "}" * 3000), (2, 3, 4))
    yield Evil("config.yaml with a billion aliases", put(_BOMB), (2, 3, 4))
    yield Evil("config.yaml that refers to itself", put("seed: ${seed}\nmodel: ${model}\n"), (2, 4))


def _put(name: str, text: str | bytes) -> Plant:
    return partial(_whole, name, text if isinstance(text, bytes) else text.encode())


def _changed_plugin(run: Path, outside: Path) -> None:
    plugin = outside / "plugin.py"
    plugin.write_text(_CANARY)
    tree = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**tree, "plugins": [str(plugin)]}))
    record = json.loads((run / "run.json").read_text())
    stored = {"name": str(plugin), "path": str(plugin), "sha256": "0" * 64}
    record["environment"]["plugins"] = [stored]
    (run / "run.json").write_text(json.dumps(record))


def _records() -> Iterator[Evil]:
    put = partial(_put, "run.json")

    def edit(**values: Any) -> Plant:
        def plant(run: Path, _: Path) -> None:
            record = json.loads((run / "run.json").read_text())
            (run / "run.json").write_text(json.dumps({**record, **values}))

        return plant

    for name, text in {
        "empty": "",
        "cut": '{"version": 1, "sta',
        "a list": "[]",
        "binary": bytes(range(256)),
        "a pickle": pickle.dumps(_Runs()),
        "deep": "[" * 1_000_000,
    }.items():
        yield Evil(f"run.json {name}", put(text), (3, 4))
    for name, environment in {
        "a list": [1],
        "with a number for plugins": {"plugins": 3},
        "with numbers as plugins": {"plugins": [3]},
        "with a million threads": {"threads": 1_000_000},
        "with threads below zero": {"threads": -1},
        "with words for threads": {"threads": "many"},
    }.items():
        yield Evil(f"run.json with an environment, {name}", edit(environment=environment), (3, 4))
    yield Evil("run.json with a best of words", edit(best="../../x"), (3, 4))


def _links_and_kinds() -> Iterator[Evil]:
    for name in ("checkpoints", "checkpoints/step-00000008"):
        yield Evil(f"{name} led out of the run", partial(_lead_out, name), (3,))
        yield Evil(f"{name} a link to nothing", partial(_link, name, "nothing"), (3, 4))
        yield Evil(f"{name} a pipe", partial(_pipe, name), (3, 4))
        yield Evil(f"{name} a file", partial(_file, name), (3, 4))
    for name in _NAMES:
        yield Evil(f"{name} led out of the run", partial(_lead_out, name), (3,))
        yield Evil(f"{name} a link to somebody's file", partial(_link, name, "outside/file"), (3,))
        yield Evil(f"{name} a pipe", partial(_pipe, name), (3,))
        yield Evil(f"{name} a folder", partial(_folder, name), (3,))
    for name in ("run.json", "config.yaml"):
        yield Evil(f"{name} of a terabyte", partial(_sparse, name), (3, 4))
    yield Evil("capsules led out of the run", partial(_link, "capsules", "outside"), (3,))


def _checkpoint_files() -> Iterator[Evil]:
    for file in (MODEL, TRAINING, STATE, "manifest.json"):
        name = f"checkpoints/step-00000008/{file}"
        yield Evil(f"{file} led out of the run", partial(_lead_out, name), (3,))
        yield Evil(f"{file} a pipe", partial(_pipe, name), (3,))
        yield Evil(f"{file} a link to a pipe", partial(_piped, name), (3,))
        yield Evil(f"{file} a link to itself", partial(_circle, name), (3,))
        yield Evil(f"{file} a folder", partial(_folder, name), (3,))
        yield Evil(f"{file} of a terabyte", partial(_sparse, name), (3, 4))
        yield Evil(f"{file} gone", partial(_gone, name), (4,))
        yield Evil(f"{file} empty", partial(_bytes, file, b""), (4,))
        for protocol in (0, 2, 5):
            evil = pickle.dumps(_Runs(), protocol)
            yield Evil(f"{file} a pickle of protocol {protocol}", partial(_bytes, file, evil), (3, 4))
            if file != "manifest.json":
                yield Evil(
                    f"{file} a pickle of protocol {protocol}, in the manifest",
                    partial(_consistent, file, evil),
                    (3, 4),
                )
    for name in ("model.pt", "optimizer.pkl", "model.bin", "x.ckpt"):
        yield Evil(f"{name} beside them", partial(_bytes, name, pickle.dumps(_Runs())), (3,))
    yield Evil(
        "a pickle of another name beside them", partial(_bytes, "notes", pickle.dumps(_Runs(), 4)), (3,)
    )
    for name, change in {
        "deep": lambda manifest: None,
        "with a path": lambda manifest: manifest["files"].update({"../../run.json": {}}),
        "with one file less": lambda manifest: manifest["files"].pop(STATE),
        "with a size in words": lambda manifest: manifest["files"][STATE].update(size="many"),
        "with a size below zero": lambda manifest: manifest["files"][STATE].update(size=-1),
        "of another version": lambda manifest: manifest.update(version=99),
    }.items():
        yield Evil(f"manifest.json {name}", partial(_manifest, change), (3, 4))
    yield Evil("manifest.json nested", partial(_bytes, "manifest.json", b"[" * 1_000_000), (4,))
    for file in (MODEL, TRAINING, STATE):
        yield Evil(f"{file} of a terabyte, in the manifest", partial(_sparse_and_listed, file), (3, 4))


def _headers() -> Iterator[Evil]:
    def tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def one(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
        return {"layers.0.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}

    for name, content in {
        "cut before its header": b"\0\0\0",
        "with a header of 2^63 bytes": tensors({}, length=2**63),
        "with a header of 2^64-1 bytes": tensors({}, length=2**64 - 1),
        "with a header longer than the file": tensors({}, b"x" * 100, length=1000),
        "with a tensor of a terabyte": tensors(one([1 << 38], [0, 1 << 40])),
        "with a shape larger than its data": tensors(one([1 << 38], [0, 16]), bytes(16)),
        "with a shape that overflows": tensors(one([1 << 62, 4], [0, 16]), bytes(16)),
        "with a shape below zero": tensors(one([-4, -1], [0, 16]), bytes(16)),
        "with a shape of words": tensors(one("four", [0, 16]), bytes(16)),
        "with a shape of fractions": tensors(one([2.0, 2.0], [0, 16]), bytes(16)),
        "with an unknown type": tensors(one([4], [0, 16], "PICKLE"), bytes(16)),
        "with a list for a type": tensors(one([4], [0, 16], ["F32"]), bytes(16)),
        "with offsets backwards": tensors(one([4], [16, 0]), bytes(16)),
        "with offsets below zero": tensors(one([4], [-16, 0]), bytes(16)),
        "with offsets behind its end": tensors(one([4], [100, 116]), bytes(16)),
        "with data nobody names": tensors(one([4], [0, 16]), bytes(1000)),
        "with a hole": tensors(one([4], [16, 32]), bytes(32)),
        "with tensors that overlap": tensors(
            {**one([4], [0, 16]), "other": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(16)
        ),
        "with a list for a header": tensors([1]),
        "with a header that is no JSON": tensors(b"\xff" * 20),
        "with a deep header": tensors(b"[" * 1_000_000),
        "with a deep and whole header": tensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        "with metadata of numbers": tensors({"__metadata__": {"a": 1}}),
        "with metadata deep": tensors(b'{"__metadata__":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    }.items():
        yield Evil(f"{MODEL} {name}", partial(_consistent, MODEL, content), (3, 4))
        yield Evil(f"{TRAINING} {name}", partial(_consistent, TRAINING, content), (3, 4))


def _renamed(run: Path, outside: Path) -> None:
    _checkpoint(run).rename(run / "checkpoints" / "step-00000009")


def _states() -> Iterator[Evil]:
    yield Evil("a checkpoint under another step's name", _renamed, (4,))

    def edit(change: Callable[[dict[str, Any]], object]) -> Plant:
        def plant(run: Path, _: Path) -> None:
            path = run / "checkpoints" / "step-00000008"
            state = json.loads((path / STATE).read_text())
            change(state)
            (path / STATE).write_text(json.dumps(state))
            list_files(path)

        return plant

    for name, content in {
        "a list": b"[]",
        "a number": b"5",
        "null": b"null",
        "empty": b"",
        "binary": bytes(range(256)),
        "deep": b"[" * 1_000_000,
        "deep and whole": b'{"step":' * 100_000 + b"1" + b"}" * 100_000,
    }.items():
        yield Evil(f"{STATE} {name}", partial(_consistent, STATE, content), (3, 4))
    keys = (
        "step",
        "epoch",
        "position",
        "parts",
        "data_fingerprint",
        "best",
        "evaluated",
    )
    for key in keys:
        yield Evil(f"{STATE} without {key}", edit(lambda state, key=key: state.pop(key)), (4,), late=True)
        for value in ("words", -1, [1], {"tensor": "none"}, 1 << 70):
            if key in ("parts", "best", "data_fingerprint") and value != "words":
                continue
            yield Evil(
                f"{STATE} with {value} for {key}",
                edit(lambda state, key=key, value=value: state.update({key: value})),
                (2, 3, 4),
                late=True,
            )
    for part in ("optimizer", "scheduler", "random"):
        yield Evil(
            f"{STATE} without its part {part}",
            edit(lambda state, part=part: state["parts"].pop(part)),
            (4,),
            late=True,
        )
        for value in ("words", -1, [1], {"tensor": "none"}, 1 << 70):
            yield Evil(
                f"{STATE} with {value} for its part {part}",
                edit(lambda state, part=part, value=value: state["parts"].update({part: value})),
                (2, 3, 4),
                late=True,
            )
    yield Evil(
        f"{STATE} with a path for its step",
        edit(lambda state: state.update(step="../../canary")),
        (2, 3, 4),
        late=True,
    )


def _elsewhere() -> Iterator[Evil]:
    """Another run's weights, to start from."""
    words = (
        "init_from=outputs/run", "train.max_steps=1", "display.mode=none", "dataset=synthetic",
        "dataset.shape=[8]", "dataset.outputs=3", "model.hidden=[8]", "threads=1", "hydra.run.dir=new",
    )  # fmt: skip
    call = {"_target_": "os.mkdir", "_args_": ["canary"]}
    huge = json.dumps({"x": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
    name = f"checkpoints/step-00000008/{MODEL}"
    for title, plant, codes in (
        ("a pickle", partial(_bytes, MODEL, pickle.dumps(_Runs())), (3, 4)),
        ("led out of the run", partial(_lead_out, name), (3,)),
        ("with a terabyte", partial(_consistent, MODEL, struct.pack("<Q", len(huge)) + huge), (3, 4)),
        ("whose folder is led out of the run", partial(_lead_out, "checkpoints"), (3,)),
        ("with a deep run.json", _put("run.json", "[" * 1_000_000), (2, 3, 4)),
        ("with a piped run.json", partial(_pipe, "run.json"), (3,)),
    ):
        yield Evil(f"init_from a run, {title}", plant, codes, command=words)
    yield Evil(
        "_target_ on the command line",
        lambda *_: None,
        (2, 3),
        command=(*words, f"+model={json.dumps(call)}".replace('"', "")),
    )


def _verified() -> Iterator[Evil]:
    """A run to verify."""
    weights = f"checkpoints/step-00000008/{MODEL}"
    for title, plant, codes in (
        ("with a pickle for weights", partial(_bytes, MODEL, pickle.dumps(_Runs())), (3, 4)),
        ("with weights led out of the run", partial(_lead_out, weights), (3,)),
        ("with a list for a state", partial(_consistent, STATE, b"[]"), (4,)),
        ("with a pipe for metrics", partial(_pipe, "metrics.jsonl"), (3,)),
        ("with metrics led out of the run", partial(_lead_out, "metrics.jsonl"), (3,)),
        ("with _target_ in its config", partial(_appended, "config.yaml", b"_target_: os.mkdir\n"), (3,)),
        ("with _target_ in its history", partial(_history, "{_target_: os.mkdir, _args_: [canary]}"), (3,)),
        ("with a history that repeats itself", partial(_history, "&a [*a, *a]"), (2, 3, 4)),
        ("with deep metrics", partial(_appended, "metrics.jsonl", b"[" * 1_000_000 + b"\n"), (2, 4)),
    ):
        yield Evil(f"verify a run, {title}", plant, codes, command=("verify", str(RUN)))


def _capsules() -> Iterator[Evil]:
    """A kept step to run again."""
    call = "\nmodel:\n  _target_: os.mkdir\n  _args_: [canary]\n"
    for title, change, codes in (
        ("with _target_ in its config", lambda state: state["capsule"].update(config=call), (3,)),
        (
            "with a Python tag in its config",
            _set_config("!!python/object/apply:os.mkdir [canary]"),
            (2, 3, 4),
        ),
        ("whose config repeats itself", _set_config(_BOMB), (2, 3, 4)),
        ("with a deep config", _set_config("a: " + "[" * 100_000), (2, 3, 4)),
        ("without its config", lambda state: state["capsule"].pop("config"), (4,)),
        ("with a number for a capsule", lambda state: state.update(capsule=3), (4,)),
        ("with an output of a terabyte", lambda state: state["data"].update(output_size=1 << 40), (2, 3, 4)),
    ):
        yield Evil(
            f"replay a capsule {title}",
            partial(edit_capsule, change),
            codes,
            command=("replay", "outputs/bad"),
        )
    yield Evil(
        "replay a capsule with an unknown plugin", _capsule_plugin, (3,), command=("replay", "outputs/bad")
    )
    for file in (MODEL, TRAINING, STATE):
        plant = partial(_pickled_capsule, file)
        yield Evil(f"replay a capsule, {file} a pickle", plant, (3, 4), command=("replay", "outputs/bad"))


def _set_config(text: str) -> Callable[[Any], object]:
    return lambda state: state["capsule"].update(config=text)


# ------------------------------------------------------------------- how it is planted


def edit_capsule(change: Callable[[Any], object], run: Path, outside: Path) -> None:
    (path,) = (run.parent / "bad" / "capsules").iterdir()
    state = json.loads((path / STATE).read_text())
    change(state)
    (path / STATE).write_text(json.dumps(state))
    list_files(path)


def _capsule_plugin(run: Path, outside: Path) -> None:
    plugin = outside / "plugin.py"
    plugin.write_text(_CANARY)

    def change(state: dict[str, Any]) -> None:
        kept = state["capsule"]
        tree = yaml.safe_load(kept["config"])
        kept["config"] = yaml.safe_dump({**tree, "plugins": [str(plugin)]})

    edit_capsule(change, run, outside)


def _pickled_capsule(file: str, run: Path, outside: Path) -> None:
    (path,) = (run.parent / "bad" / "capsules").iterdir()
    (path / file).write_bytes(pickle.dumps(_Runs()))
    list_files(path)


def _whole(name: str, content: bytes, run: Path, outside: Path) -> None:
    (run / name).write_bytes(content)


def _appended(name: str, content: bytes, run: Path, outside: Path) -> None:
    with (run / name).open("ab") as file:
        file.write(content)


def _history(config: str, run: Path, outside: Path) -> None:
    (run / "config.history.yaml").write_text(f"- until: 4\n  threads: 1\n  config: {config}\n")


def _checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "step-00000008"


def list_files(path: Path) -> None:
    """A manifest that says what is there."""
    entries = {file: manifest_entry((path / file).read_bytes()) for file in (MODEL, TRAINING, STATE)}
    (path / "manifest.json").write_bytes(manifest_bytes(entries))


def _bytes(file: str, content: bytes, run: Path, outside: Path) -> None:
    (_checkpoint(run) / file).write_bytes(content)


def _consistent(file: str, content: bytes, run: Path, outside: Path) -> None:
    (_checkpoint(run) / file).write_bytes(content)
    list_files(_checkpoint(run))


def _manifest(change: Callable[[Any], object], run: Path, outside: Path) -> None:
    path = _checkpoint(run) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def _sparse(name: str, run: Path, outside: Path) -> None:
    with (run / name).open("wb") as file:
        file.truncate(_HUGE)


def _sparse_and_listed(file: str, run: Path, outside: Path) -> None:
    path = _checkpoint(run)
    with (path / file).open("wb") as stream:
        stream.truncate(_HUGE)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][file]["size"] = _HUGE
    (path / "manifest.json").write_bytes(manifest_bytes(manifest["files"]))


def _gone(name: str, run: Path, outside: Path) -> None:
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _lead_out(name: str, run: Path, outside: Path) -> None:
    """The thing itself moved out of the run, and a link to it in its place."""
    path, target = run / name, outside / "moved"
    if path.exists():
        path.rename(target)
    else:
        target.write_bytes(b"")
    path.symlink_to(target)


def _link(name: str, target: str, run: Path, outside: Path) -> None:
    _gone(name, run, outside)
    (run / name).symlink_to(outside.parent / target)


def _pipe(name: str, run: Path, outside: Path) -> None:
    _gone(name, run, outside)
    os.mkfifo(run / name)


def _piped(name: str, run: Path, outside: Path) -> None:
    _gone(name, run, outside)
    os.mkfifo(run / "pipe")
    (run / name).symlink_to(run / "pipe")


def _circle(name: str, run: Path, outside: Path) -> None:
    _gone(name, run, outside)
    (run / name).symlink_to(run / name)


def _file(name: str, run: Path, outside: Path) -> None:
    _gone(name, run, outside)
    (run / name).write_bytes(b"x")


def _folder(name: str, run: Path, outside: Path) -> None:
    _gone(name, run, outside)
    (run / name).mkdir()
