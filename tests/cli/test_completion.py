"""Completion: what is offered, how it is quoted, and the scripts of the shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.files import put
from tests.helpers.program import PROGRAM
from trainctl.cli.commands import declaration, verbs
from trainctl.cli.commands.help import TRAIN
from trainctl.cli.completion import offered, split

SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("verb", verbs())
def test_every_option_and_its_values(verb: str) -> None:
    options = declaration(verb).options
    assert set(offered([verb], "--")) == {"--help", *(option.name for option in options)}
    for option in options:
        if option.choices:
            assert set(offered([verb, "x", option.name], "")) == set(option.choices)
            first = f"{option.name}={option.choices[0]}"
            assert first in offered([verb, "x"], first[:-1])


@pytest.mark.parametrize(
    ("line", "expected", "other"),
    [
        ("", ["resume", "model=", "lr="], ["model."]),
        ("l", ["ls", "lr=", "loss="], ["resume"]),
        ("lr=1 l", ["lr="], ["ls"]),
        ("--cfg ", ["job", "hydra", "all"], ["model="]),
        ("--", [option.name for option in TRAIN.options], []),
        ("mod", ["model=", "model."], []),
        ("model=", ["model=mlp", "model=lenet"], ["model=_registry"]),
        ("+experiment=mnist_l", ["+experiment=mnist_lenet"], []),
        ("-m model=mlp,le", ["model=mlp,lenet"], []),
        ("tracker=[csv,m", ["tracker=[csv,mlflow"], []),
        ("model.", ["model.hidden=", "model.activation="], []),
        ("model=cnn model.", ["model.freeze="], ["model.hidden="]),
        ("experiment=mnist_lenet model.", ["model.dropout="], ["model.hidden="]),
        ("tracker=csv tracker.", ["tracker.csv.every="], []),
        ("model.activation=", ["model.activation=relu", "model.activation=gelu"], []),
        ("deterministic=", ["deterministic=true", "deterministic=false"], []),
        ("train.pre", ["train.precision="], []),
        ("epochs=", ["epochs=auto"], []),
        ("hydra/launcher=", ["hydra/launcher=parallel", "hydra/launcher=fused"], []),
        ("dataset.path=da", ["dataset.path=data/"], []),
        ("dataset.path=data/", ["dataset.path=data/a b.csv"], ["dataset.path=data/.hidden"]),
        ("--config-dir data mine=", ["mine=own"], []),
        ("--config-dir ", ["data/"], ["note.txt"]),
        ("ls ", ["model", "metric"], []),
        ("ls model=l", ["model=lenet"], []),
        ("help re", ["resume", "replay"], []),
        ("tune ", ["lr"], ["model="]),
        ("tune lr opti", ["optim="], []),
        ("smoke --jobs ", ["auto"], []),
        ("eval ", ["last", "a run", "outputs/2/b"], ["dataset=", "outputs/2/a", "outputs/"]),
        ("eval outp", ["outputs/", "outputs/2/b"], []),
        ("eval last ", ["dataset=", "dataset."], ["model=", "last"]),
        ("compare last ", ["a run", "outputs/3"], []),
        ("resume outputs/2/", ["outputs/2/b"], []),
        ("init_from=", ["init_from=last", "init_from=a run"], []),
        ("predict last --input ", ["data/", "note.txt"], []),
        ("nonsense ", [], ["resume"]),
    ],
)
def test_what_is_offered(line: str, expected: list[str], other: list[str], tmp_path: Path) -> None:
    put(tmp_path / "outputs/2/a/run.json", json.dumps({"name": "a run"}))
    put(tmp_path / "outputs/2/b/run.json", json.dumps({"name": None}))
    put(tmp_path / "outputs/2/c/run.json", "not JSON")
    put(tmp_path / "outputs/3/sweep.json", "{}")
    (tmp_path / "outputs/latest").symlink_to("2/a")
    put(tmp_path / "data/a b.csv", "")
    put(tmp_path / "data/.hidden", "")
    put(tmp_path / "data/mine/own.yaml", "")
    put(tmp_path / "note.txt", "")
    words, current, _ = split(f"trainctl {line}")
    found = offered(words, current)
    assert set(expected) <= set(found)
    assert not set(other) & set(found)


@pytest.mark.parametrize(
    ("shell", "line", "word", "expected"),
    [
        ("bash", "trainctl model=len", "len", ["lenet "]),
        ("bash", "trainctl train.pre", "train.pre", ["train.precision="]),
        ("bash", "trainctl 'model.hi", "model.hi", ["model.hidden="]),
        ("bash", "trainctl eval $", "$", [r"\$\(touch\ x\) "]),
        ("bash", "trainctl eval '$", "$", []),
        ("zsh", "trainctl eval ", "", ["\\$\\(touch\\ x\\) \toutputs/a"]),
        ("fish", "trainctl eval ", "", ["$(touch x)\toutputs/a"]),
        ("fish", "trainctl model=len", "", ["model=lenet"]),
    ],
)
def test_a_word_is_quoted_for_the_shell(
    shell: str,
    line: str,
    word: str,
    expected: list[str],
    trainctl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(tmp_path / "outputs/a/run.json", json.dumps({"name": "$(touch x)"}))
    put(tmp_path / "outputs/b/run.json", json.dumps({"name": "two\nlines \x1b[31m"}))
    for name, text in (("COMP_LINE", line), ("COMP_POINT", str(len(line))), ("COMP_WORD", word)):
        monkeypatch.setenv(name, text)
    outcome = trainctl("-sc", f"query={shell}")
    assert (outcome.code, outcome.out.splitlines(), outcome.err) == (0, expected, "")


def test_shells(trainctl) -> None:
    for shell in SHELLS:
        assert "query=" + shell in trainctl("-sc", f"install={shell}").out
        assert trainctl("-sc", f"uninstall={shell}").code == 0
    outcome = trainctl("--shell-completion", "install=tcsh")
    assert outcome.code == 2
    assert "install=tcsh: must be install=bash, install=zsh or install=fish" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes(shell: str, trainctl, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    script = trainctl("-sc", f"install={shell}").out
    checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    asked = {
        "bash": "COMP_LINE='trainctl resume last model=len' COMP_POINT=30\n"
        'COMP_WORDS=(trainctl); _trainctl trainctl len =; printf "%s\\n" "${COMPREPLY[@]}"',
        "fish": "complete -C 'trainctl resume last model=len'",
    }
    if shell not in asked:
        return  # zsh completes only where somebody types
    environment = {**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [shell, "-c", f"{script}\n{asked[shell]}"], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == (["lenet"] if shell == "bash" else ["model=lenet"]), done.stderr


@pytest.mark.slow
def test_neither_torch_nor_hydra_is_imported() -> None:
    program = (
        "import sys; from trainctl.cli.main import main; main(['-sc', 'query=bash']);"
        "sys.exit(', '.join({'torch', 'hydra', 'omegaconf', 'pydantic', 'rich'} & set(sys.modules)) or 0)"
    )
    for line in ("trainctl model=", "trainctl eval --", "trainctl resume last lr"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "COMP_LINE": line},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
