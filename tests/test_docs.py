"""The examples in the README and in docs/ run as they stand."""

from __future__ import annotations

import contextlib
import io
import posixpath
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from tests.helpers.files import put
from tests.helpers.ranks import warm_ranks as warm_ranks
from trainctl.config.options import find_members
from trainctl.config.validation import known_keys

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TASK_PAGES = [page for page in PAGES if page.name.startswith("task-")]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


# All of them take a minute.
QUICK = 6
COMMANDS = [
    (page.name, line.partition("  #")[0].strip())
    for page in PAGES
    if page.name not in ("rungs.md", "tutorial.md") and page not in TASK_PAGES  # these are run below
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if line.startswith("trainctl")
]


@pytest.mark.parametrize(
    ("page", "command"),
    [
        pytest.param(page, command, marks=[] if number < QUICK else [pytest.mark.slow], id=command)
        for number, (page, command) in enumerate(COMMANDS)
    ],
)
def test_a_command_runs(
    page: str, command: str, trainctl, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    examples = blocks(REPOSITORY / "docs" / "components.md", "python")
    files = ("my_model.py", "circles.py", "tones.py", "readings.py", "loss.py", "task.py", "largest_error.py")
    for name, code in zip(files, examples, strict=True):
        (tmp_path / name).write_text(code)
    words = shlex.split(command)
    if "~/data" in command:
        words[-1] = f"dataset.root={request.getfixturevalue('mnist_root')}"
        words.append("train.max_steps=20")
    outcome = trainctl(*words[1:])
    assert outcome.code == 0, outcome.err


def test_files_of_one_name_are_one_file() -> None:
    """A reader who follows two pages in one folder would overwrite the file of the first."""
    found: dict[str, tuple[str, str]] = {}
    for page in sorted((REPOSITORY / "docs").glob("*.md")):
        named = re.finditer(r"`(\w+\.py)`:?\n+```python\n(.*?)```", page.read_text(), re.DOTALL)
        for name, code in (match.groups() for match in named):
            _, other = found.setdefault(name, (page.name, code))
            assert other == code, f"{name} of {page.name} is another file than that of {found[name][0]}"
    assert "tones.py" in found


def test_the_python_example_loads_the_newest_run(trainctl) -> None:
    assert trainctl("epochs=1", "threads=1").code == 0
    _, code = blocks(REPOSITORY / "README.md", "python")  # the first is the step
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["model"], nn.Module)


def test_the_rows_of_the_docs_are_predicted(trainctl, tmp_path: Path) -> None:
    lines = [
        f"{20 + n % 50},{n * 0.5},{'red' if n % 2 else 'blue'},{'yes' if n % 2 else 'no'}" for n in range(80)
    ]
    (tmp_path / "table.csv").write_text("\n".join(["age,income,colour,bought", *lines]))
    words = ("dataset=csv", "dataset.path=table.csv", "epochs=20", "lr=0.05", "threads=1")
    assert trainctl(*words).code == 0
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(blocks(REPOSITORY / "docs" / "using.md", "python")[0], {})
    first, second = printed.getvalue().splitlines()
    assert first.startswith("yes {'no': ")
    assert second.startswith("no {'no': ")


def test_the_option_file_of_the_docs_works(trainctl, tmp_path: Path) -> None:
    page = REPOSITORY / "docs" / "components.md"
    option, local = blocks(page, "yaml")
    (tmp_path / "my_model.py").write_text(blocks(page, "python")[0])
    put(tmp_path / "conf" / "model" / "my_net.yaml", option)
    (tmp_path / "conf" / "local.yaml").write_text(local)
    outcome = trainctl("model=my_net", "epochs=1", "threads=1")
    assert outcome.code == 0, outcome.err
    assert "from ./conf: model/my_net, local" in outcome.out


@pytest.mark.slow
def test_the_parquet_of_the_docs_trains(trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    page = REPOSITORY / "docs" / "bring.md"
    exec(blocks(page, "python")[0], {})
    (command,) = re.findall(
        r"^trainctl (dataset=hf dataset.path=squares .*)$", page.read_text(), re.MULTILINE
    )
    outcome = trainctl(*command.split(), "loader.workers=0")
    assert outcome.code == 0, outcome.err
    assert "picture (not used: weight) → colour" in outcome.out


def test_the_shards_of_the_docs_train(trainctl, tmp_path: Path) -> None:
    page = REPOSITORY / "docs" / "bring.md"
    exec(blocks(page, "python")[1], {})
    (command,) = re.findall(
        r"^trainctl (dataset=shards dataset.path=squares .*)$", page.read_text(), re.MULTILINE
    )
    outcome = trainctl(*command.split(), "threads=1")
    assert outcome.code == 0, outcome.err
    assert "6 shards" in outcome.out
    assert "png → txt; indexed" in outcome.out
    there = f"dataset.path=file://{tmp_path}/squares"
    outcome = trainctl(
        *command.split(), "threads=1", there, "dataset.window=2", "dataset.val_path='squares/train-00*'"
    )
    assert outcome.code == 2
    assert "on one service" in outcome.err
    outcome = trainctl(*command.split(), "threads=1", there, "dataset.window=2")
    assert outcome.code == 0, outcome.err
    assert "windows of 2 shards are mixed" in outcome.out


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_table_of_keys_is_complete() -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    missing = [key for key in known_keys() if "." in key and f"`{key}`" not in text]
    assert missing == []


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in ("help", "train", "test", "test-all", "smoke", "check", "bench", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


RUNGS = re.findall(
    r"```sh\n(trainctl [^\n]*)\n```\n\n```output\n(.*?)```",
    (REPOSITORY / "docs" / "rungs.md").read_text(),
    re.DOTALL,
)


@pytest.mark.quick(3)
@pytest.mark.parametrize(("command", "expected"), RUNGS, ids=[command for command, _ in RUNGS])
@pytest.mark.usefixtures("warm_ranks")
def test_the_rungs_print_what_their_page_says(command: str, expected: str, trainctl) -> None:
    printed = " ".join(trainctl(*shlex.split(command)[1:]).out.split())
    for line in expected.splitlines():
        assert " ".join(line.split()) in printed


def test_each_task_has_a_page_with_an_experiment_and_a_row() -> None:
    listed = (REPOSITORY / "docs" / "tasks.md").read_text()
    pages = {page.stem.removeprefix("task-").replace("-", "_"): page for page in TASK_PAGES}
    shipped = (REPOSITORY / "src/trainctl/components/tasks").glob("[!_]*.py")
    assert set(pages) == {path.stem for path in shipped}
    for name, page in pages.items():
        assert f"| `{name}` |" in listed
        assert f"[{name}]({page.name})" in listed
        experiments = re.findall(r"trainctl experiment=(\w+)", page.read_text())
        assert experiments, f"{page.name} has no experiment"
        assert set(experiments) <= set(find_members()["experiment"])


@pytest.mark.slow
@pytest.mark.parametrize("page", TASK_PAGES, ids=[page.stem for page in TASK_PAGES])
def test_a_task_goes_from_data_to_predictions(page: Path, trainctl, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = re.findall(r"```(python|sh)\n(.*?)```", page.read_text(), re.DOTALL)
    commands = "".join(block for language, block in found if language == "sh")
    for verb in ("eval", "predict"):
        assert f"trainctl {verb} " in commands
    for language, block in found:
        if language == "python":
            exec(block, {})
            continue
        for line in block.splitlines():
            outcome = trainctl(*shlex.split(line)[1:], *(["threads=1"] if "=" in line.split()[1] else []))
            assert outcome.code == 0, outcome.err


@pytest.mark.slow
def test_the_tutorial_works_from_an_empty_folder(trainctl, tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "tutorial.md").read_text()
    names = dict(
        zip(
            ("make_table.py", "waves.py", ""),
            blocks(REPOSITORY / "docs" / "tutorial.md", "python"),
            strict=True,
        )
    )
    for name, code in names.items():
        assert name in text
        put(tmp_path / name, code) if name else None
    exec(names["make_table.py"], {})
    printed = ""
    for language, block in re.findall(r"```(sh|output)\n(.*?)```", text, re.DOTALL):
        if language == "output":
            # What is there on this machine, whatever the digits are.
            for line in block.splitlines():
                assert re.sub(r"\d", "0", " ".join(line.split())) in re.sub(r"\d", "0", printed), line
            continue
        printed = ""
        for command in block.splitlines():
            outcome = trainctl(*shlex.split(command)[1:])
            assert outcome.code == 0, command + outcome.err
            printed += " ".join(outcome.out.split()) + " "
    found: dict[str, Any] = {}
    exec(names[""], found)
    assert [row["prediction"] for row in found["rows"]] == ["inner", "outer"]
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 601


def test_the_site_has_a_page_for_every_page_group_and_link(tmp_path: Path) -> None:
    program = runpy.run_path(str(REPOSITORY / "docs" / "pages.py"))
    pages = program["site"]()
    groups = {f"options/{group}.md" for group in find_members()}
    assert pages.keys() >= {"index.md", "tutorial.md", "api.md", "options/index.md", *groups}
    meaning = "the probability of zeroing a hidden value while training."
    row = f"| `model.dropout` | `0.0` | a number of at least 0 and below 1 | {meaning} |"
    assert row in pages["options/model.md"]
    for module in ("trainctl.load", "trainctl.data.Data", "trainctl.registry.Registry"):
        assert f"::: {module}\n" in pages["api.md"]
    listed = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    named = set(re.findall(r"'([\w/-]+\.md)'", str(listed)))
    assert named <= pages.keys()
    assert {page for page in pages if "/" not in page} <= named
    # Outside code every link leads to a page, a picture, an example or another site.
    examples = {f"examples/{name}" for name in program["_EXAMPLES"]}
    for page, text in pages.items():
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)", re.sub(r"(?s)```.*?```", "", text)):
            name = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
            assert name in pages or name in examples or (REPOSITORY / "docs" / name).is_file(), (
                f"{page} links to {target}"
            )


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    subprocess.run([sys.executable, "docs/pages.py", str(tmp_path / "docs")], cwd=REPOSITORY, check=True)
    text = (REPOSITORY / "mkdocs.yml").read_text().replace("docs_dir: build/docs", "docs_dir: docs")
    (tmp_path / "mkdocs.yml").write_text(text.replace("paths: [src]", f"paths: [{REPOSITORY}/src]"))
    build = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api.html").read_text()
    assert 'id="trainctl.registry.Registry.register"' in page
    assert "The trained model of a run" in page
    html = [path.read_text() for path in (tmp_path / "site").rglob("*.html")]
    assert not any(re.search(r'(src|href)="https?://[^"]*\.(js|css|woff2?)"', each) for each in html)
