"""A project of one's own: made, found, trained, and never written over another."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

import trainctl as package
from tests.helpers.program import run
from tests.helpers.runs import everything, record
from trainctl.cli.commands.init import starter_files

QUICK = ("epochs=1", "threads=1", "display.mode=none")


def next_command(out: str) -> str:
    return out.splitlines()[-1].removeprefix("next: ")


def test_the_next_command_trains(trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = trainctl("init", "my project")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[0] == f"made {tmp_path / 'my project'}"
    change, command = next_command(outcome.out).split(" && ")
    assert shlex.split(change) == ["cd", "my project"]
    monkeypatch.chdir(tmp_path / "my project")
    assert sorted(everything(Path())) == sorted(starter_files())
    outcome = trainctl(*shlex.split(command)[1:], "threads=1")
    assert outcome.code == 0, outcome.err
    assert "from ./conf: experiment/first, model/my_net, local" in outcome.out
    assert record(Path("outputs/latest").resolve())["test"]["test/accuracy"] > 0.95
    model = package.load("last")
    assert type(model).__name__ == "MyNet"


def test_in_the_current_folder(trainctl, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".git").mkdir()
    outcome = trainctl("init")
    assert outcome.code == 2
    assert "the folder is not empty, there is notes.txt; nothing was written" in outcome.err
    assert sorted(everything(tmp_path)) == [str(tmp_path / "notes.txt")]
    outcome = trainctl("init", "--force")
    assert outcome.code == 0, outcome.err
    assert "conf/local.yaml loads my_net.py for every command" in outcome.out
    assert next_command(outcome.out) == "trainctl experiment=first"
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for group, name in (("model", "my_net"), ("experiment", "first")):
        assert f"  {name} " in trainctl("ls", group).out
    # Its arguments are known once it is loaded, and checked.
    outcome = trainctl("model=my_net", "model.widht=3")
    assert outcome.code == 2
    assert "did you mean model.width?" in outcome.err


def test_what_its_readme_says_works(trainctl, tmp_path: Path) -> None:
    assert trainctl("init").code == 0
    blocks = re.findall(r"```sh\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    commands = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    assert len(commands) >= 7
    for command in commands:
        words = shlex.split(command)[1:]
        quick = QUICK if words[0].startswith("experiment") and "debug" not in command else ()
        if "-m" not in words and words[0] != "smoke":
            outcome = trainctl(*words, *quick)
            assert outcome.code == 0, (command, outcome.err)


@pytest.mark.slow
def test_a_new_project_passes_the_smoke_run_of_its_readme(trainctl, tmp_path: Path) -> None:
    assert trainctl("init").code == 0
    readme = (tmp_path / "README.md").read_text()
    command = "trainctl smoke --own --junit smoke.xml"
    assert f"\n{command}  " in readme
    assert "docs/github-workflow.yml" in readme
    done = run(*shlex.split(command)[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 configs: 2 passed, 0 failed" in done.stdout
    tried = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("ok ")}
    assert tried == {"model=my_net", "experiment=first"}
    assert (tmp_path / "smoke.xml").is_file()


def test_the_files_it_names_are_the_files_it_makes(trainctl, tmp_path: Path) -> None:
    assert trainctl("init").code == 0
    named = set(re.findall(r"\| `([^`]*)` \|", (tmp_path / "README.md").read_text()))
    assert named | {"README.md", ".gitignore"} == set(starter_files())


@pytest.mark.parametrize("name", ["README.md", "conf/local.yaml", ".gitignore"])
def test_a_file_of_the_same_name_is_never_written_over(trainctl, tmp_path: Path, name: str) -> None:
    path = tmp_path / "here" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    outcome = trainctl("init", "here")
    assert outcome.code == 2
    assert f"init here: {name} is there already; nothing was written" in outcome.err
    assert [each for each in (tmp_path / "here").rglob("*") if each.is_file()] == [path]
    assert path.read_text() == "mine"


def test_a_link_to_nowhere_counts_as_there(trainctl, tmp_path: Path) -> None:
    (tmp_path / "my_net.py").symlink_to(tmp_path / "nowhere.py")
    assert trainctl("init").code == 2
    assert not (tmp_path / "nowhere.py").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("one", "two"), "init takes one DIR, not one two"),
        (("--forced",), "--forced: init has no such option"),
        (("model=mlp",), "model=mlp: init takes no KEY=VALUE words"),
        (("taken.txt",), "init taken.txt: is a file"),
        ((str(Path(__file__).parents[2]),), "this is trainctl's own folder"),
    ],
)
def test_what_goes_wrong_is_said(trainctl, tmp_path: Path, words: tuple[str, ...], expected: str) -> None:
    (tmp_path / "taken.txt").write_text("")
    outcome = trainctl("init", *words)
    assert outcome.code == 2
    assert expected in outcome.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(trainctl, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    outcome = trainctl("init", "closed/project")
    assert outcome.code == 5
    assert "Permission denied" in outcome.err
