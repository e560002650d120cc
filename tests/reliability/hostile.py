"""Runs and sweeps that somebody else has prepared: links, paths for names, plugins, servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.reliability.audit import Audited, tried
from tests.reliability.children import Trial, spawn
from tests.reliability.malice import edit_capsule
from tests.reliability.runs import OUTPUTS, RUN, Course, Patch
from trainctl.cli.commands import compare, export
from trainctl.cli.main import main
from trainctl.registry import plugins, trust
from trainctl.sweep.ledger import Ledger

BAD, SWEEP = OUTPUTS / "bad", OUTPUTS / "sweep"
INPUT = "new.csv"
_CANARY = "import os\nos.mkdir('canary')\n"
_LATEST = ("outputs/latest", "outputs/.latest.")

Edit = Callable[[Any], object]
"""Changes a tree of values in place."""
Plant = Callable[[Path, Path], object]


def prepare(course: Course, root: Path) -> Path:
    """A finished run, one with a bad step, and a sweep of three jobs in a folder; returns the folder."""
    (root / OUTPUTS).mkdir(parents=True)
    values = "\n".join(",".join(str((row * 8 + column) % 5 / 5) for column in range(8)) for row in range(6))
    (root / INPUT).write_text(",".join(f"x{number}" for number in range(8)) + "\n" + values + "\n")
    for words, code in (
        ((f"hydra.run.dir={RUN}",), 0),
        ((f"hydra.run.dir={BAD}", "optim.lr=1e38"), 6),
        (("-m", "seed=1,2,3", "sweep.jobs=1", f"hydra.sweep.dir={SWEEP}"), 0),
    ):
        ended = spawn(partial(_prepared, [*words[:1], *course.words, *words[1:]]), root, timeout=120)
        assert ended.code == code, ended
    return root


def _prepared(words: list[str]) -> int:
    from tests.reliability.sweeps import workers_from_this_process

    workers_from_this_process()
    return main(words)


def verbs(made: Path) -> list[Trial]:
    """Each verb, with each thing prepared. ``made`` is what :func:`prepare` returned."""
    return [Trial(each.name, partial(tried, each, made)) for each in (*_runs(), *_sweeps())]


# ------------------------------------------------------------------- runs


_OPENING = {
    "eval": (("eval", str(RUN)), ()),
    "predict": (("predict", str(RUN), "--input", INPUT, "--output", "p.csv"), ("p.csv", ".p.csv")),
    "verify": (("verify", str(RUN)), ()),
    "export": (
        ("export", str(RUN), "--format", "safetensors", "--output", "m.safetensors"),
        ("m.safetensors", ".m."),
    ),
    "resume": (("resume", str(RUN), "train.max_steps=20", "--allow-change"), (str(RUN), *_LATEST)),
}
_LOOKING = {
    "compare": (("compare", str(RUN), "--csv", "runs.csv"), ("runs.csv", ".runs.csv")),
    "ls": (("ls",), ()),
}


def _runs() -> Iterator[Audited]:
    plants: dict[str, tuple[Plant, int]] = {
        "as it is": (lambda outputs, outside: None, 0),
        "with a plugin": (_run_with_plugin, 3),
        "with a reference": (partial(_config, lambda tree: tree.update(name="${oc.env:HOME}")), 3),
    }
    for name, (plant, code) in plants.items():
        for verb, (words, given) in _OPENING.items():
            yield Audited(f"{verb}, {name}", words, plant, (code,), given)
        for verb, (words, given) in _LOOKING.items():
            yield Audited(f"{verb}, {name}", words, plant, (0,), given)
    for verb, code in (("resume", 3), ("eval", 2), ("verify", 3)):
        words, given = _OPENING[verb]
        yield Audited(f"{verb}, data to download", words, partial(_config, _downloads), (code,), given)
    yield from _replays()
    words, given = ("export", str(RUN), "--format", "safetensors"), ("run.safetensors", ".run.")
    yield Audited("export by name", words, lambda outputs, outside: None, (0,), given)
    for title, text in (("upwards", "../outside/m"), ("absolute", "{outside}/m")):
        plant = partial(_name, text)
        yield Audited(f"export by a name that is a path {title}", words, plant, (3,), given)
    words, given = _OPENING["resume"]
    for link, tracker in (("metrics.csv", "csv"), ("tensorboard", "tensorboard")):
        plant = partial(_led_out, link, tracker)
        yield Audited(f"resume, {link} led out", words, plant, (0, 3), given)
    yield Audited("resume, logs led out", words, partial(_led_out, "logs", "csv"), (3,), given)
    plant = partial(_config, _server)
    yield Audited("resume, a server as tracker", words, plant, (3,), given)


def _replays() -> Iterator[Audited]:
    for name, change, code in (
        ("as it is", lambda state: None, 0),
        ("with a plugin", lambda state: None, 3),
        ("with a reference", lambda tree: tree.update(name="${oc.env:HOME}"), 3),
    ):
        plant = partial(_capsule, change, plugin=name == "with a plugin")
        yield Audited(f"replay, {name}", ("replay", str(BAD)), plant, (code,))


def _config(change: Edit, outputs: Path, outside: Path) -> None:
    path = outputs / "run" / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    change(tree)
    path.write_text(yaml.safe_dump(tree))


def _record(change: Edit, outputs: Path) -> None:
    path = outputs / "run" / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def _run_with_plugin(outputs: Path, outside: Path) -> None:
    """With the digest that its record should have."""
    file = outputs / "run" / "evil.py"
    file.write_text(_CANARY)
    _config(lambda tree: tree.update(plugins=[str(file)]), outputs, outside)
    stored = {"name": str(file), "path": str(file), "sha256": plugins.digest(file)}
    _record(lambda record: record["environment"].update(plugins=[stored]), outputs)


def _downloads(tree: Any) -> None:
    tree["dataset"] = {"name": "mnist", "root": "outside/data", "download": True, "val": 0.1}


def _server(tree: Any) -> None:
    tree["tracker"] = {"mlflow": {"name": "mlflow", "uri": "http://127.0.0.1:9"}}


def _name(text: str, outputs: Path, outside: Path) -> None:
    _record(lambda record: record.update(name=text.format(outside=outside)), outputs)


def _led_out(name: str, tracker: str, outputs: Path, outside: Path) -> None:
    _config(lambda tree: tree.update(tracker={tracker: {"name": tracker}}), outputs, outside)
    (outside / "folder").mkdir()
    (outputs / "run" / name).symlink_to(outside / ("file" if name.endswith(".csv") else "folder"))


def _capsule(change: Edit, outputs: Path, outside: Path, *, plugin: bool) -> None:
    (outputs / "evil.py").write_text(_CANARY)

    def edit(state: dict[str, Any]) -> None:
        kept = state["capsule"]
        tree = yaml.safe_load(kept["config"])
        change(tree)
        if plugin:
            tree["plugins"] = [str(outputs / "evil.py")]
        kept["config"] = yaml.safe_dump(tree)

    edit_capsule(edit, outputs / "run", outside)


# ------------------------------------------------------------------- sweeps


def _sweeps() -> Iterator[Audited]:
    resume, given = ("resume", str(SWEEP)), (str(SWEEP), *_LATEST)
    for name, plant, codes in _prepared_sweeps():
        yield Audited(f"resume a sweep {name}", resume, plant, codes, given, seconds=90)
        looks = (0,) if codes == (0,) else (0, 2, 3)
        yield Audited(f"compare a sweep {name}", ("compare", str(SWEEP)), plant, looks)


def _prepared_sweeps() -> Iterator[tuple[str, Plant, tuple[int, ...]]]:
    yield "as it is", lambda outputs, outside: None, (0,)
    yield "with a job left", partial(_job, lambda job, outside: None), (0,)
    for title, name in (
        ("upwards", "../../outside/new"),
        ("absolute", "{outside}/new"),
        ("to a file of its own", "run.json"),
    ):
        plant = partial(_job, partial(_stores, name))
        yield f"whose job stores a file {title}", plant, (3,)
    for title, number in (("upwards", "../../outside/folder"), ("absolute", "{outside}/folder")):
        yield f"whose job's number leads {title}", partial(_job, partial(_numbered, number)), (3,)
    yield "whose job's number is another's", partial(_job, lambda job, outside: job.update(number=2)), (3,)
    yield "whose last job has a plugin", partial(_job, _job_plugin), (3,)
    yield "whose job reads the environment", partial(_job, _job_reference), (3,)
    yield "whose job's run has a plugin", _interrupted_plugin, (3,)
    yield "whose job's run directory is set", partial(_job, _job_directory), (0, 1, 2, 3)
    yield "whose job is led out", partial(_sweep_link, "1"), (3,)
    yield "whose rows are led out", partial(_sweep_link, "ledger"), (3,)
    yield "whose row is led out", partial(_sweep_link, "ledger/1.json"), (0, 3)
    yield "whose jobs are led out", partial(_sweep_link, "jobs.jsonl"), (3,)
    yield "whose worker's log is led out", partial(_sweep_link, "worker-0.log"), (0, 3, 5)
    yield "whose job's checkpoints are led out", partial(_sweep_link, "1/checkpoints"), (0, 1, 3)
    for launcher in ("basic", "submitit_local", "../../outside/x"):
        values = {"launcher": launcher, "config_dir": "{outside}", "folder": "{outside}"}
        yield f"with hydra/launcher={launcher}", partial(_values, values), (2, 3)
    search = {"search": {"config_dir": "{outside}", "config_name": None, "folder": "{outside}"}}
    yield "that is a search", partial(_values, search), (3,)


def _left(outputs: Path, state: str) -> Path:
    """The sweep, with its second job in another ``state``; waiting, it has no run yet."""
    sweep = outputs / "sweep"
    if state == "waiting":
        shutil.rmtree(sweep / "1")
    else:
        path = sweep / "1" / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "status": state}))
    (sweep / "ledger" / "1.json").write_text(json.dumps({"state": state}))
    return sweep


def _job(change: Callable[[dict[str, Any], Path], object], outputs: Path, outside: Path) -> None:
    path = _left(outputs, "waiting") / "jobs.jsonl"
    jobs = [json.loads(line) for line in path.read_text().splitlines()]
    change(jobs[1], outside)
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs))


def _stores(name: str, job: dict[str, Any], outside: Path) -> None:
    job["files"][name.format(outside=outside)] = "OWNED\n"


def _numbered(number: str, job: dict[str, Any], outside: Path) -> None:
    (outside / "folder").mkdir()
    (outside / "folder" / "thesis").write_text("precious\n")
    job["number"] = number.format(outside=outside)


def _job_plugin(job: dict[str, Any], outside: Path) -> None:
    (outside / "evil.py").write_text(_CANARY)
    text = job["files"]["config.yaml"]
    job["files"]["config.yaml"] = text.replace("plugins: []", f"plugins: [{outside / 'evil.py'}]")


def _job_reference(job: dict[str, Any], outside: Path) -> None:
    text = job["files"]["config.yaml"]
    job["files"]["config.yaml"] = text.replace("name: null", "name: ${oc.env:HOME}", 1)


def _job_directory(job: dict[str, Any], outside: Path) -> None:
    job["files"]["config.yaml"] += f"hydra:\n  run:\n    dir: {outside}\n  sweep:\n    dir: {outside}\n"
    job["words"] = [*job["words"], f"hydra.run.dir={outside}"]


def _interrupted_plugin(outputs: Path, outside: Path) -> None:
    (outside / "evil.py").write_text(_CANARY)
    path = _left(outputs, "interrupted") / "1" / "config.yaml"
    path.write_text(path.read_text().replace("plugins: []", f"plugins: [{outside / 'evil.py'}]"))


def _sweep_link(name: str, outputs: Path, outside: Path) -> None:
    """The thing itself moved out of the sweep, and a link to it in its place."""
    sweep = _left(outputs, "interrupted" if name.startswith("1") else "waiting")
    target = outside / "moved"
    if (sweep / name).exists():
        (sweep / name).rename(target)
    else:
        target.write_bytes(b"")
    (sweep / name).symlink_to(target)


def _values(values: dict[str, Any], outputs: Path, outside: Path) -> None:
    path = _left(outputs, "waiting") / "sweep.json"
    text = json.dumps(values).replace("{outside}", str(outside))
    path.write_text(json.dumps({**json.loads(path.read_text()), **json.loads(text)}))


# ------------------------------------------------------------------- the audit itself, tried


def _trust_all() -> None:
    trust.refuse_untrusted = lambda named, directory: None


def _any_ledger() -> None:
    Ledger._refuse_foreign = lambda ledger, job, line, where: None  # type: ignore[method-assign]


def _any_name() -> None:
    export._named_file = lambda name, directory, kind: Path(f"{name}.safetensors")


def _asks_around() -> None:
    import socket

    inner = compare.run

    def run(words: list[str]) -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.connect(("127.0.0.1", 9))
        return inner(words)

    compare.run = run


def _calls_a_program() -> None:
    import subprocess

    inner = compare.run

    def run(words: list[str]) -> int:
        subprocess.run(["true"], check=False)
        return inner(words)

    compare.run = run


FAULTS: dict[str, tuple[Patch, str, str]] = {
    "trust in plugins": (_trust_all, "eval, with a plugin", "code of the run"),
    "the check of a ledger": (
        _any_ledger,
        "resume a sweep whose job stores a file upwards",
        "written outside",
    ),
    "the check of a name": (_any_name, "export by a name that is a path upwards", "written outside"),
    "a program that keeps to itself": (_asks_around, "compare, as it is", "a socket"),
    "a program that does its work itself": (_calls_a_program, "compare, as it is", "a process"),
}
"""The safeguard taken away, the trial that must notice, and what it says."""


def bites(made: Path) -> list[Trial]:
    """Each fault, which the audit must see."""
    known = {each.name: each for each in (*_runs(), *_sweeps())}
    return [
        Trial(fault, partial(_noticed, known[name], patch, said, made))
        for fault, (patch, name, said) in FAULTS.items()
    ]


def _noticed(audited: Audited, patch: Patch, said: str, made: Path, folder: Path) -> str | None:
    wrong = tried(audited, made, folder, patch)
    return None if wrong is not None and said in wrong else f"not noticed: {wrong}"
