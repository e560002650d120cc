"""The benchmarks use the package as it is: mypy does not look at them, and they seldom run."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = sorted([*(REPOSITORY / "benchmarks").rglob("*.py"), *(REPOSITORY / "docs").glob("*.py")])


def missing(source: str) -> list[str]:
    """What ``source`` imports from trainctl and is not there."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trainctl"):
            module = importlib.import_module(str(node.module))
            found += [alias.name for alias in node.names if not _has(module, alias.name)]
    return found


def _has(module: object, name: str) -> bool:
    if hasattr(module, name):
        return True
    try:
        importlib.import_module(f"{module.__name__}.{name}")  # type: ignore[attr-defined]
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_what_it_imports_is_there(path: Path) -> None:
    assert missing(path.read_text()) == []


def test_what_is_not_there_is_named() -> None:
    assert missing("from trainctl.training.display import Display, Gone\nfrom trainctl import ui") == ["Gone"]
