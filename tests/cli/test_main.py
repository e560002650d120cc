"""The command line: what a wrong word gets, verbs, options, completion; what imports no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf.errors import ConfigValueError

from tests.helpers.program import modules_after, run
from trainctl.config import composer
from trainctl.errors import ConfigError, TerminatedRunError
from trainctl.training.interrupts import Stopped

# The words, the exit code, and what standard error must say.
BAD = [
    (["model=mpl"], 2, ["model=mpl: there is no such option", "did you mean model=mlp?", "sequential"]),
    (["lrr=1"], 2, ["lrr: there is no such key", "did you mean lr?"]),
    (["+lrr=1"], 2, ["lrr: there is no such key", "did you mean lr?"]),
    (["model.hiden=[3]"], 2, ["model.hiden=[3]", "did you mean model.hidden?"]),
    (["+model.hiden=[3]"], 2, ["model.hiden=[3]", "did you mean model.hidden?"]),
    (["optim=adm", "model=mlpp"], 2, ["did you mean optim=adam?", "did you mean model=mlp?"]),
    (["lr=abc"], 2, ["optim.lr=abc: must be a number greater than 0"]),
    (["model=null"], 2, ["model=null", "choose one of: autoencoder, cnn, "]),
    (["scheduler=null"], 2, ["scheduler=null", "scheduler=none turns it off"]),
    (["train=3"], 2, ["train=3"]),
    (["train.epohcs=3"], 2, ["train.epohcs: there is no such key", "did you mean train.epochs?"]),
    (["lr=1,2"], 2, ["optim.lr=1,2: several values", "add -m"]),
    (["seed=a=b"], 2, ["seed=a=b: cannot be parsed", "quotes"]),
    (["experiment=mnist_mpl"], 2, ["did you mean experiment=mnist_mlp?"]),
    (["model.input_shape=[3]"], 2, ["model.input_shape=[3]: trainctl sets this itself"]),
    (["device=tpu"], 2, ["device=tpu: must be auto, cpu, cuda, cuda:N or mps"]),
    (["train"], 2, ["train: training needs no verb", "trainctl KEY=VALUE …"]),
    (["fit", "lr=1"], 2, ["fit: training needs no verb"]),
    (["epochs", "3"], 2, ["epochs: settings are typed as KEY=VALUE", "epochs=3"]),
    (["model", "lr=1"], 2, ["model=VALUE"]),
    (["--lr", "0.1"], 2, ["--lr: settings are typed as KEY=VALUE", "lr=0.1"]),
    (["model=mlp", "--epochs", "3"], 2, ["--epochs: settings", "epochs=3"]),
    (["--batch-size=64"], 2, ["--batch-size: settings", "batch_size=64"]),
    (["trian"], 2, ["trian: there is no such command", "help, init, ls"]),
    (["sl"], 2, ["did you mean trainctl ls?"]),
    (["ls", "modle"], 2, ["did you mean model?"]),
    (["ls", "-m"], 2, ["sweeps go with training and plan only"]),
    (["--multrun"], 2, ["did you mean --multirun?"]),
    (["-m", "lr=1e-3,abc"], 2, ["optim.lr=abc: must be a number", "1 of 2 jobs"]),
    (["-m", "lr=glob(*)"], 2, ["lr=glob(*): gives no value"]),
    (["-m", "train.clip_norm=choice(null,1.0)"], 2, ["write train.clip_norm=null,1.0"]),
    (["hydra.job.chdir=true"], 2, ["hydra.job.chdir=true: a run stays"]),
    (["hydra.verbose=true"], 2, ["hydra.verbose: has no effect"]),
    (["hydra.output_subdir=mine"], 2, ["hydra.output_subdir: has no effect"]),
    (["+hydra.own=1"], 2, ["hydra.own: there is no such key"]),
    (["lr=" + "[" * 5000], 2, ["error: lr: nested deeper than 100 levels"]),
    (["hydra.job.name=mine"], 2, ["hydra.job.name: has no effect", "name=NAME names a run"]),
    (["hydra/launcher=basic"], 2, ["hydra/launcher=basic: has an effect on sweeps only", "add -m"]),
    (["dataset=csv", "dataset.path=caf\udce9.csv"], 2, ["dataset.path=caf", "is not UTF-8 text"]),
    (["+tracker.a.name=csv", "+tracker.b.name=csv"], 2, ["tracker.b: tracker.a writes to the same place"]),
    (["name=a\nb"], 2, ["not a valid name for a run", "one line of visible characters"]),
    (["-m", "lr=1e-2,1e-3", "hydra.sweep.subdir=x"], 2, ["hydra.sweep.subdir: the jobs"]),
    (["++model._target_=os.system"], 3, ["model._target_=os.system: refused"]),
    (["++train._partial_=true"], 3, ["train._partial_=true: refused"]),
    (["hydra.launcher._target_=os.system"], 3, ["hydra.launcher._target_=os.system: refused"]),
    (["+hydra.job_logging.handlers.x.class=subprocess.Popen"], 3, ["refused"]),
    (["init", "~nobody-of-this-name/x"], 2, ["there is no such user"]),
    (["eval", "=" * 300], 2, ["eval needs a RUN"]),
    (["hydra.run.dir=/proc/none/run"], 5, ["creating the run directory failed"]),
]


@pytest.mark.quick(5)
@pytest.mark.parametrize(("words", "code", "messages"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_a_wrong_word_is_told_what_to_type_instead(
    trainctl, words: list[str], code: int, messages: list[str], tmp_path: Path
) -> None:
    outcome = trainctl(*words)
    assert outcome.code == code
    for message in messages:
        assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert all(len(line) < 400 for line in outcome.err.splitlines())
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("indent", ["", "    "], ids=["imported", "built"])
def test_a_plugin_that_exits_is_an_error_of_its_own(trainctl, tmp_path: Path, indent: str) -> None:
    (tmp_path / "p.py").write_text(
        "from trainctl.registry import MODELS\n@MODELS.register('gone')\n"
        f"def gone(input_shape, output_size):\n    pass\n{indent}raise SystemExit(7)\n"
    )
    outcome = trainctl("plugins=[p.py]", "model.name=gone", "~model.hidden")
    assert outcome.code == 2
    assert "p.py" in outcome.err


def test_debug_shows_the_traceback_and_keeps_the_exit_code(tmp_path: Path) -> None:
    done = run("lr=abc", cwd=tmp_path, TRAINCTL_DEBUG="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "optim.lr=abc" in done.stderr


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["--cfg", "job"], 0),
        (["ls"], 0),
        (["ls", "model=mlp"], 0),
        (["lrr=1"], 2),
    ],
    ids=str,
)
def test_no_torch_is_imported_where_none_is_needed(words: list[str], code: int, tmp_path: Path) -> None:
    assert not {"torch", "rich"} & modules_after(*words, cwd=tmp_path, code=code)


def test_help_lists_every_verb_and_exit_code(trainctl) -> None:
    outcome = trainctl("--help")
    assert outcome.code == 0
    assert "  ls  " in outcome.out
    assert "143" in outcome.out
    assert trainctl("help").out == outcome.out


def test_ls_shows_groups_options_and_arguments(trainctl) -> None:
    assert "sgd_momentum" in trainctl("ls").out
    assert "sgd_momentum" in trainctl("ls", "optim").out
    arguments = trainctl("ls", "model=mlp").out
    for text in ("model.hidden", "[128, 64]", "a whole number of at least 1", "Fully connected layers"):
        assert text in arguments
    assert "epochs: auto" in trainctl("ls", "train=default").out


def test_cfg_job_shows_what_a_run_would_use(trainctl) -> None:
    outcome = trainctl("--cfg", "job", "lr=0.5", "model=linear")
    assert outcome.code == 0
    assert "name: linear" in outcome.out
    assert "lr: 0.5" in outcome.out
    assert "hydra" not in outcome.out


@pytest.mark.parametrize(
    "words", [["--info", "defaults"], ["--info", "searchpath"], ["--cfg", "hydra"], ["--hydra-help"]]
)
def test_hydras_own_views_work(trainctl, words: list[str]) -> None:
    assert trainctl(*words).code == 0


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("wrapped", "place"),
    [
        (ConfigValueError, (ConfigLoaderImpl, "load_configuration")),
        (ConfigError, (composer, "drop_unused_arguments")),
        (SystemError, (composer, "drop_unused_arguments")),
    ],
)
@pytest.mark.parametrize(
    ("told", "code"), [(KeyboardInterrupt(), 130), (Stopped(TerminatedRunError("")), 143)]
)
def test_a_signal_that_a_library_takes_for_an_error_is_still_one(
    trainctl,
    monkeypatch: pytest.MonkeyPatch,
    told: BaseException,
    code: int,
    wrapped: type[Exception],
    place: tuple[Any, str],
) -> None:
    def composing(*given: Any, **named: Any) -> Any:
        try:
            raise told
        except BaseException:
            raise wrapped("cannot be composed") from None

    for words in (("--cfg", "job"), ("-m", "seed=1,2")):
        with monkeypatch.context() as patch:
            patch.setattr(*place, composing)
            assert trainctl(*words).code == code


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    script = f"{sys.executable} -m trainctl --cfg job | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


@pytest.mark.parametrize("words", [("eval", "last"), ("-m", "lr=1,2")])
def test_under_torchrun_other_commands_stop(words, trainctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert "works in one process" in outcome.err


def test_under_torchrun_training_needs_a_meeting_place(trainctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    outcome = trainctl("model=mlp")
    assert outcome.code == 2
    assert "MASTER_ADDR" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-path", "/tmp"], "--config-path"),
        (["--resolve"], "--resolve: requires --cfg"),
        (["--config-dir", ""], "there is no such folder"),
        (["-m", "hydra.run.dir=x"], "the directory of a sweep is hydra.sweep.dir"),
        (["hydra.sweep.dir=x"], "the directory of a run is hydra.run.dir"),
        (["-sc", "install=bsh"], "--help shows the options"),
        (["--cfg", "job", "--resolve", "lr=${nope}"], "optim.lr"),
        (["epochs=1e3"], "train.epochs=1000.0: must be auto or a whole number"),
        (["model.hidden=[64"], "cannot be parsed"),
        (["=3"], "=3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_is_passed_over_in_silence(trainctl, words: list[str], message: str) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert message in outcome.err
    assert "internal error" not in outcome.err


def test_a_terminal_that_knows_only_ascii_gets_its_help(tmp_path: Path) -> None:
    assert run("--help", cwd=tmp_path, PYTHONIOENCODING="ascii").returncode == 0
    assert run("ls", cwd=tmp_path, PYTHONIOENCODING="ascii").returncode == 0


def test_an_option_file_that_is_nested_too_deep_is_named(trainctl) -> None:
    Path("conf/optim").mkdir(parents=True)
    Path("conf/optim/deep.yaml").write_text("name: adam\nlr: " + "[" * 900 + "]" * 900 + "\n")
    outcome = trainctl("--cfg", "job", "optim=deep")
    assert outcome.code == 2
    assert "conf/optim/deep.yaml: nested deeper than 100 levels" in outcome.err
