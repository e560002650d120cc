"""The Git state of a run: bounded, without secrets, readable."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trainctl.runs import git_state
from trainctl.runs.git_state import read_git_state


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in {"NAME": "a", "EMAIL": "a@b"}.items():
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    git("init", "-q")
    for name in (".env", "table.txt", "code.py", "settings.py", "gone.txt", "[x].py"):
        (folder / name).write_text("x\n")
    git("add", "-f", ".")
    git("commit", "-qm", "first")
    return folder


def store_git_state(directory: Path) -> dict[str, Any] | None:
    state = read_git_state()
    return None if state is None else state.store(directory)


def git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout


def test_the_difference_is_a_file_of_its_own(repository: Path, tmp_path: Path) -> None:
    (repository / "code.py").write_text("changed\n")
    (repository / "[x].py").write_text("brackets\n")
    state = store_git_state(tmp_path)
    assert state == {"commit": git("rev-parse", "HEAD").strip(), "diff": "git.diff"}
    text = (tmp_path / "git.diff").read_text()
    assert "+changed" in text
    assert "+brackets" in text
    # It can be applied to the commit.
    git("stash", "-q")
    git("apply", str(tmp_path / "git.diff"))
    assert (repository / "code.py").read_text() == "changed\n"


def test_without_changes_there_is_no_file(repository: Path, tmp_path: Path) -> None:
    state = store_git_state(tmp_path)
    assert state is not None
    assert state["diff"] is None
    assert not (tmp_path / "git.diff").exists()


def test_secrets_and_large_files_are_left_out_and_named(repository: Path, tmp_path: Path) -> None:
    (repository / ".env").write_text("A=ghp_SECRET123456\n")
    (repository / "settings.py").write_text('api_token = "abcdefgh12345678"\n')
    (repository / "table.txt").write_bytes(b"caf\xe9\n" * 100_000)
    (repository / "code.py").write_text("print(1)\n")
    (repository / "gone.txt").unlink()
    state = store_git_state(tmp_path)
    assert state is not None
    assert state["left_out"] == [
        ".env: looks like a secret",
        "table.txt: 500,000 bytes",
        "settings.py: looks like it holds a secret",
    ]
    text = (tmp_path / "git.diff").read_text()
    assert "print(1)" in text
    assert "gone.txt" in text
    assert "SECRET" not in text
    assert "abcdefgh" not in text


@pytest.mark.parametrize(
    ("name", "text", "is_secret"),
    [
        ("service-account.json", "{}", True),
        (".kube/config", "x", True),
        ("prod.tfvars", "x", True),
        ("a.yaml", "db_password: hunter2hunter2", True),
        ("a.py", 'engine("postgres://me:hunter2@host/db")', True),
        ("a.py", "password = read_password_of(1)", False),
        ("a.py", "token = tokenizer.encode(text1)", False),
        ("a.yaml", "password: ${oc.env:PASSWORD1}", False),
    ],
)
def test_what_looks_like_a_secret(name: str, text: str, is_secret: bool) -> None:
    found = git_state._SECRET_NAME.search(name) or git_state._SECRET_TEXT.search(b"+" + text.encode() + b"\n")
    assert bool(found) == is_secret


def test_many_changes_end_at_a_megabyte(repository: Path, tmp_path: Path) -> None:
    for number in range(12):
        (repository / f"{number:02}.py").write_text(f"{number}\n" * 50_000)
    git("add", ".")
    state = store_git_state(tmp_path)
    assert state is not None
    assert 900_000 < (tmp_path / "git.diff").stat().st_size <= 2**20
    assert state["left_out"]


def test_a_subfolder_and_names_that_are_not_utf8(repository: Path, tmp_path: Path, monkeypatch) -> None:
    (repository / "sub").mkdir()
    (repository / "code.py").write_text("changed\n")
    (repository / os.fsdecode(b"caf\xe9.pem")).write_text("key\n")
    git("add", ".")
    monkeypatch.chdir(repository / "sub")
    state = store_git_state(tmp_path)
    assert state is not None
    assert state["left_out"] == ["caf\\udce9.pem: looks like a secret"]
    assert "+changed" in (tmp_path / "git.diff").read_text()


def test_a_file_that_becomes_a_link_stands_for_one_name(repository: Path, tmp_path: Path) -> None:
    (repository / "code.py").unlink()
    (repository / "code.py").symlink_to("table.txt")
    (repository / "table.txt").write_text("password: hunter2hunter2\n")
    state = store_git_state(tmp_path)
    assert state is not None
    assert state["left_out"] == ["table.txt: looks like it holds a secret"]
    difference = (tmp_path / "git.diff").read_text()
    assert "new file mode 120000" in difference
    assert "hunter2" not in difference


@pytest.mark.parametrize("setting", ["diff.submodule=diff", "diff.submodule=log", "diff.relative=true"])
def test_settings_that_change_what_git_lists(
    setting: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = repository / "other"
    other.mkdir()
    git("init", "-q", "other")
    git("-C", "other", "commit", "-q", "--allow-empty", "-m", "empty")
    git("add", "other")
    git("commit", "-qm", "submodule")
    (other / "settings.env").write_text("DB=hunter2hunter2\n")
    git("-C", "other", "add", "settings.env")
    git("-C", "other", "commit", "-qm", "second")
    (repository / "code.py").write_text("changed\n")
    git("config", *setting.split("="))
    (repository / "folder").mkdir()
    monkeypatch.chdir(repository / "folder")
    state = store_git_state(tmp_path)
    assert state is not None
    assert "left_out" not in state
    difference = (tmp_path / "git.diff").read_text()
    assert "+changed" in difference
    assert "+Subproject commit" in difference
    assert "hunter2" not in difference


def test_outside_a_repository_there_is_none(tmp_path: Path) -> None:
    assert store_git_state(tmp_path) is None
