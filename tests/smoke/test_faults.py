"""A fault planted in each phase is found, and the phase is named; the JUnit file says the same."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import xmlschema

from tests.helpers.program import run
from trainctl.config.composer import Composer
from trainctl.inference import export as exporting
from trainctl.smoke.cases import Case
from trainctl.smoke.lifecycle import LifecycleTest
from trainctl.smoke.pool import CHILDREN, smoke_process
from trainctl.smoke.report import ONCE, PHASES, Result

HERE = Path(__file__).parent
# What is tried, the phase that fails, and what is said of it.
FAULTS = [
    ("model=uncomposable", "compose", "model.dropuot=0.1: model mlp has no argument 'dropuot'"),
    ("model.name=misfit", "build", "model=misfit does not take inputs of shape (N, 1, 8, 8)"),
    ("model.name=not_finite", "train", "the loss is nan at step 1"),
    ("model.name=crashing", "build", "its process was killed by signal 6"),
    ("model.name=unrepeatable", "save", "differs from the same 2 steps in memory: weights: linear."),
    ("optim.name=unsaveable", "save", "optimizer.made is a object, which a checkpoint cannot hold"),
    ("model.name=one_process", "kill", "ended with exit code 1 before it could be killed"),
    ("optim.name=unresumable", "resume", "momentum is not what it was"),
    ("model.name=hidden_state", "compare", "loss of step 2: "),
    ("optim.name=forgetful", "compare", "differs from the uninterrupted one: weights: "),
    ("model.name=restless", "evaluate", "but the run recorded"),
    ("model.name=centred", "devices", "loss of step 1: "),
    ("model.name=centred_later", "predict", "a prediction depends on the batch"),
    ("model.name=branching", "export torch", "model=branching cannot be exported"),
]
FINE = ("model=fine", "model.name=kept_out", "model.name=whole_batches")

pytestmark = pytest.mark.slow  # every fault costs a life of its own


def words() -> list[str]:
    chosen: dict[str, list[str]] = {}
    for label in (*FINE, *(label for label, *_ in FAULTS)):
        key, _, name = label.partition("=")
        chosen.setdefault(key, []).append(name)
    return [f"{key}={','.join(names)}" for key, names in chosen.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one's own: a plugin, two options, an outputs folder with a run of before."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(HERE / "faults.py", folder)
    options = folder / "conf" / "model"
    options.mkdir(parents=True)
    (options / "fine.yaml").write_text("name: fine\n")
    (options / "uncomposable.yaml").write_text("name: mlp\nhidden: [8]\ndropuot: 0.1\n")
    (folder / "outputs" / "before").mkdir(parents=True)
    (folder / "outputs" / "latest").symlink_to("before")
    (folder / "tmp").mkdir()
    return folder


@pytest.fixture(scope="module")
def smoked(folder: Path) -> subprocess.CompletedProcess[str]:
    arguments = ("plugins=./faults.py", *words(), "--jobs", "2", "--junit", "smoke.xml")
    return run("smoke", *arguments, cwd=folder, TMPDIR=str(folder / "tmp"))


def suites(folder: Path) -> dict[str, dict[str, ElementTree.Element]]:
    """By config and phase."""
    root = ElementTree.parse(folder / "smoke.xml").getroot()
    return {
        suite.attrib["name"]: {case.attrib["name"]: case for case in suite.iter("testcase")}
        for suite in root.iter("testsuite")
    }


def line(out: str, label: str) -> str:
    (found,) = [each for each in out.splitlines() if each.split()[1:2] == [label]]
    return found


@pytest.mark.parametrize(("label", "phase", "reason"), FAULTS, ids=[label for label, *_ in FAULTS])
def test_a_planted_fault_is_found_in_its_phase(smoked, folder, label: str, phase: str, reason: str) -> None:
    said = line(smoked.stdout, label)
    assert said.startswith("FAILED"), smoked.stdout + smoked.stderr
    assert f"  {phase}: " in said
    assert reason in said
    assert f"failed: {label}, {phase}" in smoked.stdout.splitlines()
    cases = suites(folder)[label]
    assert tuple(cases) == PHASES
    place = PHASES.index(phase)
    for number, name in enumerate(PHASES):
        failure, skipped = cases[name].find("failure"), cases[name].find("skipped")
        if number < place:
            assert failure is None
            assert skipped is None, (name, skipped.attrib)
        elif number == place:
            assert reason in failure.attrib["message"]
        elif name != "export onnx" or phase != "export torch":
            assert skipped.attrib["message"] == f"after failed {phase}"


def test_what_is_right_passes_and_what_it_declares_is_skipped(smoked, folder) -> None:
    assert line(smoked.stdout, "model=fine").startswith("ok ")
    cases = suites(folder)["model=fine"]
    assert all(each.find("failure") is None for each in cases.values())
    assert [name for name, each in cases.items() if each.find("skipped") is not None] in (
        [],
        ["export onnx"],  # where onnx is not installed
    )
    said = line(smoked.stdout, "model.name=kept_out")
    assert said.startswith("ok ")
    assert "skipped export torch, export onnx: model=kept_out declares that it cannot be exported" in said
    cases = suites(folder)["model.name=kept_out"]
    for name in ("export torch", "export onnx"):
        assert "declares that it cannot be exported" in cases[name].find("skipped").attrib["message"]
    cases = suites(folder)["model.name=whole_batches"]
    assert "several_devices = False" in cases["devices"].find("skipped").attrib["message"]


def test_it_exits_1_counts_and_leaves_nothing_behind(smoked, folder) -> None:
    assert smoked.returncode == 1
    assert smoked.stderr == ""
    counted = f"{len(FAULTS) + len(FINE)} configs: {len(FINE)} passed, {len(FAULTS)} failed"
    assert any(each.startswith(counted) for each in smoked.stdout.splitlines())
    found = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    assert found == ["conf", "faults.py", "first-process", "outputs", "smoke.xml", "tmp"]
    assert sorted(path.name for path in (folder / "outputs").iterdir()) == ["before", "latest"]
    assert (folder / "outputs" / "latest").readlink() == Path("before")
    assert [path.name for path in (folder / "tmp").iterdir() if path.name.startswith("trainctl")] == []


def test_the_junit_file_is_valid_and_counts_right(smoked, folder) -> None:
    schema = xmlschema.XMLSchema(HERE / "junit-10.xsd")
    schema.validate(folder / "smoke.xml")
    root = ElementTree.parse(folder / "smoke.xml").getroot()
    cases = list(root.iter("testcase"))
    assert len(cases) == int(root.attrib["tests"]) == (len(FAULTS) + len(FINE)) * len(PHASES)
    assert int(root.attrib["failures"]) == len(FAULTS) == len(list(root.iter("failure")))
    for suite in root.iter("testsuite"):
        assert {case.attrib["classname"] for case in suite.iter("testcase")} == {suite.attrib["name"]}
        assert int(suite.attrib["skipped"]) == len(list(suite.iter("skipped")))


# ------------------------------------------------------------------ in this process


def lead(case: Case, folder: Path, *phases: str) -> dict[str, Result]:
    """The lifecycle of a case, killed in a process of its own, with only these ``phases`` of ``ONCE``."""

    def ask(kind: str, content: Any) -> int:
        if kind == "export":
            return 0
        process = smoke_process(folder, CHILDREN[kind], *content)
        process.join()
        return int(process.exitcode or 0)

    results: list[Result] = []

    def tell(kind: str, content: Any) -> None:
        if kind == "result":
            results.append(content)

    life = LifecycleTest(Composer(), case, (), folder, tell, ask)
    life.run()
    for phase in phases:
        life.do(phase, partial(life._export, ONCE[phase]))
    return {each.phase: each for each in results}


LINEAR = Case("model", "model=linear", ("model=linear",))


def test_weights_that_are_read_without_their_preprocessing_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"kind": "standardize", "values": {"factor": 1.0, "offset": 0.0}, "tensors": {}}
    about = exporting._metadata

    def dropped(*arguments):
        return {**about(*arguments), "transform": nothing}

    monkeypatch.setattr(exporting, "_metadata", dropped)
    found = lead(LINEAR, tmp_path / "life")
    assert [each.status for each in found.values()][:10] == ["passed"] * 10
    assert found["export safetensors"].status == "failed"
    assert "predictions differ from the run's" in found["export safetensors"].reason
    assert found["export torch"].reason == "after failed export safetensors"


@pytest.mark.parametrize("phase", ["export torch", "export onnx"])
def test_a_program_without_its_preprocessing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    if phase == "export onnx":
        pytest.importorskip("onnxruntime")

    def without(self, inputs):
        return self.task.predict(self.model(inputs.float()))

    monkeypatch.setattr(exporting.Pipeline, "forward", without)
    found = lead(LINEAR, tmp_path / "life", phase)
    assert found[phase].status == "failed"
    assert "predictions differ from the run's" in found[phase].reason
