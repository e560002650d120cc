"""A run or a sweep is untrusted: nothing in it says that its plugins, or the environment, may be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trainctl.registry import plugins, trust

FAST = (
    "threads=1",
    "epochs=1",
    "pictures=false",
    "display.mode=none",
    "dataset=synthetic",
    "dataset.shape=[4]",
)
FAST += ("dataset.outputs=2", "model.hidden=[4]", "batch_size=64")
CODE = "import os\nos.mkdir('canary')\n"
USES = (
    ("eval", "run"),
    ("export", "run", "--format", "safetensors", "--output", "m.safetensors"),
    ("resume", "run", "epochs=2"),
    ("verify", "run"),
)


@pytest.fixture
def foreign(trainctl: Callable, tmp_path: Path) -> Path:
    """A run that names a plugin with its right digest, as somebody else's would."""
    assert trainctl(*FAST, "hydra.run.dir=run").code == 0
    (tmp_path / "evil.py").write_text(CODE)
    _name_plugin(tmp_path / "run", tmp_path / "evil.py")
    return tmp_path / "run"


def _name_plugin(run: Path, file: Path) -> None:
    config = (run / "config.yaml").read_text()
    assert "plugins: []" in config
    (run / "config.yaml").write_text(config.replace("plugins: []", f"plugins: [{file}]"))
    record = json.loads((run / "run.json").read_text())
    stored = {"name": str(file), "path": str(file), "sha256": plugins.digest(file)}
    record["environment"]["plugins"] = [stored]
    (run / "run.json").write_text(json.dumps(record))


@pytest.mark.quick(2)
@pytest.mark.parametrize("words", USES, ids=[words[0] for words in USES])
def test_a_digest_in_the_run_is_no_trust(words: tuple[str, ...], trainctl: Callable, foreign: Path) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 3
    assert "evil.py, and you did not train it on this machine" in outcome.err
    assert "--trust-plugins" in outcome.err
    assert not Path("canary").exists()


def test_a_run_that_was_trained_here_is_used_and_its_copy_is_not(trainctl: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("X = 1\n")
    assert trainctl(*FAST, "plugins=[./mine.py]", "hydra.run.dir=run").code == 0
    assert trainctl("eval", "run").code == 0
    shutil.copytree("run", "copy")
    assert trainctl("eval", "copy").code == 3
    assert trainctl("eval", "copy", "--trust-plugins").code == 0
    (tmp_path / "mine.py").write_text("X = 2\n")
    refused = trainctl("eval", "run")
    assert refused.code == 3
    assert f"{tmp_path}/mine.py is not the file that this run was made with: it was changed" in refused.err
    assert "         -X = 1\n         +X = 2\n" in refused.err
    assert "--trust-plugins" in refused.err
    (tmp_path / "mine.py").write_text("".join(f"X = {number}\n" for number in range(99)))
    assert "more lines" in trainctl("eval", "run").err
    (tmp_path / "mine.py").unlink()
    assert f": {tmp_path}/mine.py is not there" in trainctl("eval", "run").err


def test_resuming_with_trust_is_training(trainctl: Callable, foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("X = 1\n")
    assert trainctl("resume", "run", "epochs=2", "--trust-plugins").code == 0
    assert trainctl("eval", "run").code == 0


def test_what_the_state_folder_holds_is_read_with_care(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ".state"))
    trust.remember(tmp_path, [])
    assert trust.is_own(tmp_path)
    (record,) = (tmp_path / ".state/trainctl/runs").iterdir()
    for text in ("", "[]", "{}", '{"run": "/elsewhere", "plugins": []}', '{"run": 1, "plugins": 3}'):
        record.write_text(text)
        assert not trust.is_own(tmp_path)


@pytest.mark.slow
def test_every_job_of_a_sweep_is_asked_for_before_one_starts(trainctl: Callable, tmp_path: Path) -> None:
    assert trainctl("-m", "seed=1,2,3", *FAST, "sweep.jobs=1", "hydra.sweep.dir=sw").code == 0
    (tmp_path / "evil.py").write_text(CODE)
    path = tmp_path / "sw/jobs.jsonl"
    jobs = [json.loads(line) for line in path.read_text().splitlines()]
    config = jobs[2]["files"]["config.yaml"]
    jobs[2]["files"]["config.yaml"] = config.replace("plugins: []", f"plugins: [{tmp_path}/evil.py]")
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    for number in (1, 2):
        shutil.rmtree(f"sw/{number}")
        Path(f"sw/ledger/{number}.json").write_text('{"state": "waiting"}')
    outcome = trainctl("resume", "sw")
    assert outcome.code == 3, outcome
    assert "evil.py" in outcome.err
    assert not Path("canary").exists()
    assert not Path("sw/1").exists()


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "reference", ["${oc.env:SECRET}", "${oc.env:SECRET,x}", "${oc.decode:a}", "${${name}:SECRET}"]
)
def test_the_environment_is_for_this_users_own_configs(
    reference: str, trainctl: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s3cr3t")
    assert trainctl(*FAST, "hydra.run.dir=run").code == 0
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("name: null", f"name: '{reference}'", 1))
    assert reference in config.read_text()
    for words in (("resume", "run", "epochs=2"), ("eval", "run"), ("verify", "run")):
        outcome = trainctl(*words)
        assert outcome.code == 3, outcome
        assert "s3cr3t" not in outcome.out + outcome.err
    if reference == "${oc.env:SECRET}":
        Path("conf").mkdir()
        Path("conf/local.yaml").write_text("name: ${oc.env:SECRET}\n")
        assert trainctl("resume", "run", "epochs=2").code == 0


def test_a_run_keeps_its_own_references(trainctl: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "mine")
    assert trainctl(*FAST, "name=${oc.env:NAME}", "hydra.run.dir=run").code == 0
    assert trainctl("resume", "run", "epochs=2").code == 0
    shutil.copytree("run", "copy")
    assert trainctl("eval", "copy").code == 3


@pytest.mark.slow
def test_a_name_is_no_path_and_no_file_is_replaced(trainctl: Callable) -> None:
    assert trainctl(*FAST, "hydra.run.dir=run").code == 0
    export = ("export", "run", "--format", "safetensors")
    assert trainctl(*export).code == 0
    assert "exists" in (again := trainctl(*export)).err
    assert again.code == 2
    assert trainctl(*export, "--force").code == 0
    path = Path("run/run.json")
    record = json.loads(path.read_text())
    for name in ("../prod", "/tmp/prod", "a\0b", "..", "", 3):
        path.write_text(json.dumps({**record, "name": name}))
        assert trainctl(*export).code == 3, name
