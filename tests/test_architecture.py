"""The rooms of the house, and that imports go one way: down."""

from __future__ import annotations

import ast
import functools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "trainctl"
# From the ground up: a room imports from those before it.
ROOMS = (
    "runs",
    "registry",
    "data",
    "components",
    "distributed",
    "checkpoint",
    "config",
    "training",
    "lessons",
    "inference",
    "sweep",
    "analysis",
    "smoke",
    "ui",
    "cli",
)
EVERYWHERE = ("errors", "paths")
# Who may import what comes from outside.
OUTSIDE = {
    "hydra": ("cli", "config", "sweep"),
    "omegaconf": ("cli", "config", "sweep"),
    "rich": ("ui",),
}
# Private names of Hydra, which change with its versions.
HYDRA_INTERNALS = ["config/hydra_internals.py"]
# What is imported before the config has been found right, or in a process that trains nothing.
NO_TORCH = (
    "__main__",
    "cli",
    "config",
    "errors",
    "paths",
    "registry",
    "runs",
    "sweep",
    "ui",
)
WITH_TORCH = (
    "cli/starter/my_net.py",
    "registry/protocols.py",
    "sweep/fused/_group.py",
    "sweep/fused/_member.py",
    "sweep/fused/_probe.py",
    "sweep/fused/_steps.py",
    "sweep/worker.py",
)


@dataclass(frozen=True)
class Arrow:
    """One import: from where to where, and whether it waits (inside a function) or is for types only."""

    start: str
    end: str
    kind: str

    def __str__(self) -> str:
        return f"{self.start} -> {self.end}{f' ({self.kind})' if self.kind else ''}"


def modules_of(source: Path) -> dict[str, Path]:
    """Every module below ``source`` by its dotted name, the package's own name left out."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache  # each planted import is looked for in a copy of the whole source
def imports_of(source: str) -> list[tuple[str, str]]:
    """What a source text imports, dotted, and of which kind: "", lazy or type-only."""

    def visit(node: ast.AST, kind: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, kind) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", kind) for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = kind or "lazy"
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            kind = "type-only"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, kind)

    return list(visit(ast.parse(source), ""))


def arrows_of(source: Path) -> list[Arrow]:
    """Every import between two modules of ``source``."""
    modules = modules_of(source)
    arrows = []
    for name, path in modules.items():
        for target, kind in imports_of(path.read_text(encoding="utf-8")):
            root, _, end = target.partition(".")
            if root != "trainctl":
                continue
            while end and end not in modules:
                end = end.rpartition(".")[0]
            if end and end != name:
                arrows.append(Arrow(name, end, kind))
    return arrows


def room(module: str) -> str:
    return module.partition(".")[0]


def upward(arrows: list[Arrow]) -> list[str]:
    """The arrows that go to a room that is not below."""
    height = {name: number for number, name in enumerate(ROOMS)}

    def is_upward(arrow: Arrow) -> bool:
        start, end = room(arrow.start), room(arrow.end)
        if end in EVERYWHERE or start == end or start in ("", "__main__"):
            return False
        return start in EVERYWHERE or height[end] > height[start]

    return sorted({str(arrow) for arrow in arrows if is_upward(arrow)})


def circles(arrows: list[Arrow]) -> list[list[str]]:
    """The groups of modules that import one another, by Tarjan's algorithm (1972)."""
    targets: dict[str, set[str]] = {}
    for arrow in arrows:
        targets.setdefault(arrow.start, set()).add(arrow.end)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for target in sorted(targets.get(name, ())):
            if target not in number:
                visit(target)
            if target in stack:
                lowest[name] = min(lowest[name], lowest[target])
        if lowest[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(targets):
        if name not in number:
            visit(name)
    return found


def strangers(source: Path) -> list[str]:
    """Imports of what only some rooms may import, and of torch where it must come later."""
    wrong = []
    for name, path in modules_of(source).items():
        for target, kind in imports_of(path.read_text(encoding="utf-8")):
            outside = target.partition(".")[0]
            if outside in OUTSIDE and room(name) not in OUTSIDE[outside]:
                wrong.append(f"{name} imports {outside}")
            relative = path.relative_to(source).as_posix()
            if outside == "torch" and not kind and room(name) in NO_TORCH and relative not in WITH_TORCH:
                wrong.append(f"{name} imports torch when it is imported")
    return wrong


def test_the_rooms_are_those_of_the_plan() -> None:
    found = {path.name for path in SOURCE.iterdir() if path.name not in ("__pycache__", "conf")}
    assert found == {*ROOMS, "__init__.py", "__main__.py", "errors.py", "paths.py", "py.typed"}
    for name in ROOMS:
        doc = ast.get_docstring(ast.parse((SOURCE / name / "__init__.py").read_text()))
        assert doc is not None, name
        assert "mport" in doc, f"{name}: its docstring says who may import it"


def test_no_import_goes_up() -> None:
    assert upward(arrows_of(SOURCE)) == []


def test_no_imports_run_in_a_circle() -> None:
    assert circles(arrows_of(SOURCE)) == []


def test_only_the_rooms_that_may_import_from_outside_do() -> None:
    assert strangers(SOURCE) == []


def planted(tmp_path: Path, file: str, line: str) -> Path:
    """A copy of the package with one more import in it."""
    copy = tmp_path / "trainctl"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / file).read_text()
    assert "import annotations" in text
    (copy / file).write_text(text.replace("import annotations", f"import annotations\n{line}", 1))
    return copy


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("training/loop.py", "from trainctl.ui import display", "training.loop -> ui.display"),
        (
            "components/models/mlp.py",
            "def late():\n    from trainctl.config.settings import Config",
            "components.models.mlp -> config.settings (lazy)",
        ),
        (
            "runs/files.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from trainctl.training.loop import Run",
            "runs.files -> training.loop (type-only)",
        ),
        ("errors.py", "from trainctl.runs import files", "errors -> runs.files"),
    ],
)
def test_an_arrow_upwards_is_named_with_both_ends(
    file: str, line: str, expected: str, tmp_path: Path
) -> None:
    assert expected in upward(arrows_of(planted(tmp_path, file, line)))


@pytest.mark.parametrize(
    ("file", "line", "ends"),
    [
        (
            "training/state.py",
            "def late():\n    from trainctl.training.loop import Run",
            {"training.loop", "training.state"},
        ),
        (
            "components/metrics/_base.py",
            "from trainctl.components.metrics.mae import MAE",
            {"components.metrics._base", "components.metrics.mae"},
        ),
    ],
)
def test_a_circle_is_named_with_its_modules(file: str, line: str, ends: set[str], tmp_path: Path) -> None:
    found = circles(arrows_of(planted(tmp_path, file, line)))
    assert any(ends <= set(circle) for circle in found)


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("config/settings.py", "import torch", "config.settings imports torch when it is imported"),
        ("training/build.py", "from omegaconf import OmegaConf", "training.build imports omegaconf"),
        ("training/loop.py", "from rich import print", "training.loop imports rich"),
    ],
)
def test_a_stranger_is_named(file: str, line: str, expected: str, tmp_path: Path) -> None:
    assert expected in strangers(planted(tmp_path, file, line))


def test_the_training_step_is_the_plain_one() -> None:
    text = (SOURCE / "training" / "loop.py").read_text()
    step = text[text.index("def train_step") : text.index("def fit")]
    body = [line.strip() for line in step.split('"""')[2].splitlines() if line.strip()]
    assert body == [
        "with precision:",
        "loss = criterion(model(inputs), targets)",
        "optimizer.zero_grad()",
        "loss.backward()",
        "if guard is None or guard.accepts(loss):",
        "optimizer.step()",
        "return loss.detach()  # type: ignore[no-any-return]",
    ]
    readme = (SOURCE.parents[1] / "README.md").read_text()
    shown = readme[readme.index("with precision:") :].split("```")[0]
    assert [line.strip() for line in shown.splitlines() if line.strip()] == body[:-1]


def test_one_module_imports_what_hydra_keeps_to_itself() -> None:
    importing = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if re.search(r"^\s*(from|import) hydra\._internal", path.read_text(), re.MULTILINE)
    ]
    assert importing == HYDRA_INTERNALS
