"""What is tried, with which configs and data, and how it is told."""

from __future__ import annotations

import io
import shlex
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import xmlschema
import yaml

from tests.helpers.program import run, start
from trainctl.config.composer import Composer
from trainctl.errors import ConfigError
from trainctl.registry import COMPONENTS, LOSSES, METRICS, TASKS
from trainctl.smoke import junit
from trainctl.smoke.cases import Case, find_cases
from trainctl.smoke.compatible_configs import compatible_configs
from trainctl.smoke.pool import SmokePool
from trainctl.smoke.report import PHASES, Report, Result
from trainctl.sweep.worker_pool import start_server
from trainctl.ui.smoke import Lines

HERE = Path(__file__).parent


# ------------------------------------------------------------------ what is tried


def test_every_option_of_every_group_is_a_case(trainctl) -> None:
    listed = trainctl("smoke", "--list").out.splitlines()
    assert len(listed) == len(set(listed)) > 100
    for registry in (*COMPONENTS.values(), METRICS, TASKS):
        for name in registry.names():
            assert f"{registry.group}={name}" in listed
    assert {"experiment=mnist_mlp", "tracker=csv", "debug=overfit", "guard=full", "train=default"} <= {
        *listed
    }
    assert listed[0].startswith("model=")  # what takes longest begins first


def test_own_options_and_those_of_config_dir_are_found(trainctl, tmp_path: Path) -> None:
    for folder in ("conf/model", "conf/experiment", "more/optim", "conf/hydra"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "conf/model/wide.yaml").write_text("name: mlp\nhidden: [512]\n")
    (tmp_path / "conf/experiment/mine.yaml").write_text("# @package _global_\nseed: 1\n")
    (tmp_path / "conf/hydra/strange.yaml").write_text("a: 1\n")
    (tmp_path / "more/optim/slow.yaml").write_text("name: sgd\nlr: 1e-5\n")
    listed = trainctl("smoke", "--list", "--config-dir", "more").out.splitlines()
    assert {"model=wide", "experiment=mine", "optim=slow"} <= {*listed}
    assert not any("strange" in each for each in listed)


@pytest.mark.slow
def test_options_in_sub_folders_are_found(trainctl, tmp_path: Path) -> None:
    recipe = "# @package _global_\nseed: 1\n"
    for name, text in {
        "conf/experiment/vision/a.yaml": recipe,
        "conf/experiment/vision/deep/b.yaml": recipe,
        "conf/experiment/.ipynb_checkpoints/a-checkpoint.yaml": recipe,
        "conf/hydra/launcher/strange.yaml": "a: 1\n",
        "more/model/wide/c.yaml": "# @package model\nname: mlp\nhidden: [8]\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    listed = trainctl("smoke", "--own", "--list", "--config-dir", "more").out.splitlines()
    assert listed == ["model=wide/c", "experiment=vision/a", "experiment=vision/deep/b"]
    chosen = trainctl("smoke", "--list", "experiment=vision/a")
    assert chosen.out.splitlines() == ["experiment=vision/a"]
    # They compose as they are listed.
    composer = Composer("more")
    for word in listed:
        assert composer.compose([word]).config.model.name == "mlp"


def test_components_of_a_plugin_are_found_without_an_option_file(trainctl, tmp_path: Path) -> None:
    shutil.copy(HERE / "faults.py", tmp_path)
    listed = trainctl("smoke", "--list", "plugins=./faults.py").out.splitlines()
    assert {"model.name=fine", "optim.name=forgetful"} <= {*listed}
    chosen = trainctl("smoke", "--list", "plugins=./faults.py", "model.name=fine", "optim=sgd,adam")
    assert chosen.out.splitlines() == ["model.name=fine", "optim=sgd", "optim=adam"]


def test_what_comes_with_trainctl_can_be_left_out(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("smoke", "--own", "--list")
    assert outcome.code == 2
    assert "there are no options or components but trainctl's" in outcome.err
    (tmp_path / "conf/optim").mkdir(parents=True)
    (tmp_path / "conf/optim/slow.yaml").write_text("name: sgd\nlr: 1e-5\n")
    shutil.copy(HERE / "faults.py", tmp_path)
    listed = trainctl("smoke", "--own", "--list", "plugins=./faults.py").out.splitlines()
    assert {"optim=slow", "model.name=fine"} < {*listed}
    assert not {"optim=sgd", "model=mlp", "metric=accuracy"} & {*listed}


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model=mlpp",), "did you mean model=mlp?"),
        (("optim=sgd,adm",), "optim=adm: there is no such option"),
        (("model.name=nothing",), "model.name=nothing: there is no such option"),
        (("experiment=",), "there are: digits_autoencoder, digits_cosine"),
        (("trian.epochs=3",), "did you mean train.epochs?"),
        (("dataset.rot=x",), "dataset.rot=x: no component takes this argument"),
        (("~model=mlp",), "smoke cannot remove a key"),
        (("mlp",), "mlp: smoke takes KEY=VALUE words"),
        (("--jobs", "0"), "--jobs 0: must be auto"),
        (("--jobs",), "--jobs: needs a value"),
        (("--juint=a.xml",), "did you mean --junit?"),
        (("--junit", "absent/a.xml"), "there is no folder"),
        (("--junit=.",), "is a folder"),
        (("--config-dir", "absent"), "there is no such folder"),
        (("plugins=./absent.py",), "absent.py does not exist"),
        (("epochs=3",), "epochs=3: smoke trains every config for 2 steps"),
        (("++train.epochs=3",), "smoke trains every config for 2 steps"),
        (("train.max_steps=1", "model=mlp"), "train.max_steps=1: smoke trains every config for 2 steps"),
        (("checkpoint.every_steps=2",), "smoke saves after every step"),
        (("checkpoint.keep_best=0",), "smoke saves after every step"),
        (("device=cuda",), "smoke trains on the CPU"),
        (("compile=true",), "compile=true: smoke compares values to the last bit"),
        (("dataset.limit=7",), "dataset.limit=7: fewer than the 8 samples of a batch"),
        (("dataset.limit=12", "batch_size=16"), "dataset.limit=12: fewer than the 16 samples of a batch"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_tried(
    trainctl, words: tuple[str, ...], said: str
) -> None:
    outcome = trainctl("smoke", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) <= 2
    assert outcome.out == ""


def test_what_is_set_as_smoke_sets_it_may_be_typed(trainctl) -> None:
    words = ("device=cpu", "train.max_steps=2", "dataset.limit=8", "batch_size=4", "threads=2", "seed=1")
    assert trainctl("smoke", "--list", "model=mlp", *words).out.splitlines() == ["model=mlp"]


def test_settings_hold_for_every_case_and_choices_select() -> None:
    cases, settings = find_cases(["model=mlp,lenet", "lr=0.5", "+optim=sgd", "seed=3"], ["model", "optim"])
    assert [case.label for case in cases] == ["model=mlp", "model=lenet", "optim=sgd"]
    assert settings == ("++optim.lr=0.5", "seed=3")
    # A group that the base config has no place for is added, not replaced.
    ((case,), _) = find_cases(["guard=full"], ["model"])
    assert case.words == ("+guard=full",)


# ------------------------------------------------------------------ with what


def first(group: str, name: str) -> tuple[str, ...]:
    return next(compatible_configs(Case(group, f"{group}={name}", (f"{group}={name}",)), name))


def test_what_a_component_declares_decides_its_configs() -> None:
    for name in LOSSES.names():
        kind = "class" if name == "auto" else getattr(LOSSES.load(name), "target", None)
        words = first("loss", name)
        assert ("++dataset.task=regression" in words) == (kind != "class"), name
        if kind in ("binary", "sign", "labels"):
            assert f"++dataset.targets={kind}" in words
    assert "loss=mse" in first("metric", "r2")
    assert first("metric", "accuracy") == first("optim", "adam") == first("experiment", "mnist_mlp") == ()


def test_no_compatible_config_replaces_what_is_tried() -> None:
    for group in COMPONENTS:
        for words in compatible_configs(Case(group, group, (f"{group}=x",)), "x"):
            assert not [word for word in words if word.lstrip("+").partition("=")[0].split(".")[0] == group]


# ------------------------------------------------------------------ the real thing


@pytest.mark.slow
def test_each_kind_of_compatible_config_once(trainctl, tmp_path: Path) -> None:
    """A loss of other targets, a loop that does not resume, samples made one by one, absent data."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    recipe = "# @package _global_\ndefaults:\n  - override /dataset: npz\ntrain:\n  accumulate: 16\n"
    (tmp_path / "conf" / "experiment" / "large_steps.yaml").write_text(recipe)
    chosen = (
        "experiment=large_steps",
        "loss=bce,multi_label_margin",
        "loop=derivatives",
        "loader=workers",
        "dataset=mnist",
        "metric=r2",
    )
    outcome = trainctl("smoke", *chosen, "debug=overfit", "--jobs=2", "dataset.root=absent")
    assert outcome.code == 0, outcome.out + outcome.err
    assert {path.name for path in tmp_path.iterdir()} <= {"conf", ".cache"}
    lines = outcome.out.splitlines()
    said = {each.split()[1]: each for each in lines if each.startswith("ok ")}
    assert len(said) == 8
    assert "made-up data in place of data.npz" in said["experiment=large_steps"]
    assert "skipped kill, resume, compare: loop=derivatives does not resume" in said["loop=derivatives"]
    assert "with dataset=image_folder" in said["loader=workers"]
    assert "synthetic data in place of mnist" in said["dataset=mnist"]
    assert "dataset.targets=labels" in said["loss=multi_label_margin"]
    assert lines[-1].startswith("8 configs: 8 passed, 0 failed; 104 phases, ")


@pytest.mark.slow
def test_trackers_write_into_the_temporary_folder(trainctl, tmp_path: Path) -> None:
    for name in ("tensorboard", "mlflow"):
        pytest.importorskip(name)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "conf").mkdir()
    server = f"sqlite:///{tmp_path}/server.db"
    (tmp_path / "conf" / "local.yaml").write_text(f"tracker:\n  mlflow:\n    uri: {server}\n")
    outcome = trainctl("smoke", "tracker=csv,tensorboard,mlflow")
    assert outcome.code == 0, outcome.out
    assert {path.name for path in tmp_path.iterdir()} <= {"outputs", "conf", ".cache"}
    assert not list((tmp_path / "outputs").iterdir())


@pytest.mark.slow
def test_what_hangs_is_ended(tmp_path: Path) -> None:
    start_server("trainctl.smoke.worker")
    shutil.copy(HERE / "faults.py", tmp_path)
    cases = [Case("model", "model.name=hanging", ("model.name=hanging",))]
    reports: list[Report] = []
    pool = SmokePool(
        cases, ("plugins=[./faults.py]",), None, tmp_path / "runs", 1, reports.append, too_long=20.0
    )
    pool.run()
    (report,) = reports
    assert (report.failed.phase, report.failed.reason) == ("train", "hung: sent nothing for 20 s")
    assert not (tmp_path / "runs" / "0").exists()


@pytest.mark.slow
def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    # The name of a socket in it may have 108 characters: pytest's own folder is too deep.
    with tempfile.TemporaryDirectory() as folder:
        process = start("smoke", "optim=adam", "--junit=a.xml", cwd=tmp_path, TMPDIR=folder)
        until = time.monotonic() + 60
        while not list(Path(folder).glob("trainctl-smoke-*/0")) and time.monotonic() < until:
            time.sleep(0.05)
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 143, err
        assert len(err.splitlines()) <= 2
        assert not list(Path(folder).glob("trainctl*"))


def test_a_temporary_folder_that_is_too_deep_for_a_socket_is_named(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    done = run("smoke", "optim=adam", cwd=tmp_path, TMPDIR=str(deep))
    assert done.returncode == 5
    assert "TMPDIR" in done.stderr


@pytest.mark.slow
def test_the_workflow_for_github_runs(trainctl, tmp_path: Path) -> None:
    workflow = yaml.safe_load((HERE.parents[1] / "docs" / "github-workflow.yml").read_text())
    steps = workflow["jobs"]["smoke"]["steps"]
    commands = [step["run"] for step in steps if step.get("run", "").startswith("trainctl")]
    assert commands == ["trainctl smoke --own --junit smoke.xml"]
    assert [step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", "")] == [
        "smoke.xml"
    ]
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    recipe = "# @package _global_\ndefaults:\n  - override /model: linear\nepochs: 3\n"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(recipe)
    outcome = trainctl(*shlex.split(commands[0])[1:])
    assert outcome.code == 1  # epochs is no key of a file
    assert "FAILED  experiment=mine" in outcome.out
    assert 'classname="experiment=mine" name="compose"' in (tmp_path / "smoke.xml").read_text()


# ------------------------------------------------------------------ how it is told


def reports() -> list[Report]:
    good = Report("model=a", [Result(phase, "passed", 0.1) for phase in PHASES], ["with optim=sgd"])
    bad = Report("model=bad \x00<&>", [Result("compose", "passed", 0.1)])
    bad.fail("two\nlines \x1b[31m & <angles>")
    absent = Report("loop=far", [Result("compose", "passed"), Result("build", "skipped", reason="no far")])
    absent.results += [Result(phase, "skipped", reason="no far") for phase in PHASES[2:]]
    return [good, bad, absent]


def test_one_line_a_config() -> None:
    stream = io.StringIO()
    lines = Lines([each.label for each in reports()], stream)
    for report in reports():
        lines.show(report)
    lines.end(reports(), 3.0)
    text = stream.getvalue().splitlines()
    assert text[0].split() == ["ok", "model=a", "1.3", "s", "with", "optim=sgd"]
    assert text[1].startswith("FAILED  model=bad")
    assert "build: two lines" in text[1]
    assert "after failed" not in text[1]
    assert text[2].startswith("skipped loop=far")
    assert text[2].count("no far") == 1
    assert text[3] == "3 configs: 1 passed, 1 failed, 1 skipped; 39 phases, 23 of them skipped; 3.0 s"
    assert text[4].startswith("failed: model=bad")
    assert len(text) == 5


def test_any_text_makes_a_valid_junit_file(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    junit.write(path, reports(), 1234.5678)
    schema = xmlschema.XMLSchema(HERE / "junit-10.xsd")
    schema.validate(path)
    assert "two\n" in path.read_text()
    broken = path.read_text().replace('classname="model=a" name="compose"', 'classname="model=a"')
    assert not schema.is_valid(broken)


def test_a_junit_file_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        junit.write(tmp_path / "absent" / "a.xml", reports(), 1.0)
    with pytest.raises(ConfigError, match="no such option"):
        find_cases(["model=absent"], ["model"])
