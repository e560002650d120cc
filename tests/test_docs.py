"""The examples in the README and in docs/ run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.helpers.files import put
from tests.helpers.ranks import warm_ranks as warm_ranks
from trainctl.config.validation import known_keys

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


# All of them take a minute.
QUICK = 6
COMMANDS = [
    (page.name, line.partition("  #")[0].strip())
    for page in PAGES
    if page.name not in ("rungs.md", "tasks.md")  # their commands run below
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
    for name, code in zip(("my_model.py", "circles.py", "waves.py"), examples, strict=False):
        (tmp_path / name).write_text(code)
    words = shlex.split(command)
    if "~/data" in command:
        words[-1] = f"dataset.root={request.getfixturevalue('mnist_root')}"
        words.append("train.max_steps=20")
    outcome = trainctl(*words[1:])
    assert outcome.code == 0, outcome.err


def test_the_python_example_loads_the_newest_run(trainctl) -> None:
    assert trainctl("epochs=1", "threads=1").code == 0
    (code,) = blocks(REPOSITORY / "README.md", "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert "model" in names


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
    (code,) = blocks(page, "python")
    exec(code, {})
    (command,) = re.findall(
        r"^trainctl (dataset=hf dataset.path=squares .*)$", page.read_text(), re.MULTILINE
    )
    outcome = trainctl(*command.split(), "loader.workers=0")
    assert outcome.code == 0, outcome.err
    assert "picture (not used: weight) → colour" in outcome.out


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


SECTIONS = (REPOSITORY / "docs" / "tasks.md").read_text().split("\n## ")[1:]


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS, ids=[section.partition("\n")[0] for section in SECTIONS])
def test_a_task_goes_from_data_to_predictions(section: str, trainctl, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for language, block in re.findall(r"```(python|sh)\n(.*?)```", section, re.DOTALL):
        if language == "python":
            exec(block, {})
            continue
        for line in block.splitlines():
            outcome = trainctl(*shlex.split(line)[1:], *(["threads=1"] if "=" in line.split()[1] else []))
            assert outcome.code == 0, outcome.err
