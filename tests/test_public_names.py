"""The public names are those of the docs, and the examples need no others."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "docs" / "components.md").read_text(encoding="utf-8")
ROWS = dict(
    re.findall(r"^\| `(trainctl[\w.]*)` \| (.*) \|$", TEXT.partition("## Public names")[2], re.MULTILINE)
)
EXAMPLES = [
    *re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL),
    *(path.read_text() for path in (REPOSITORY / "src" / "trainctl" / "cli" / "starter").glob("*.py")),
]


def test_the_docs_list_the_modules_with_public_names() -> None:
    assert set(ROWS) >= {"trainctl", "trainctl.data", "trainctl.registry"}


@pytest.mark.parametrize("module", ROWS)
def test_the_docs_list_every_public_name(module: str) -> None:
    names = re.findall(r"`(\w+)`", ROWS[module])
    assert sorted(names) == sorted(importlib.import_module(module).__all__)


def test_every_public_name_exists() -> None:
    for module in map(importlib.import_module, ROWS):
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_import_public_names_only(code: str) -> None:
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    own = {
        node.module: {alias.name for alias in node.names}
        for node in imports
        if "trainctl" in str(node.module)
    }
    assert own
    for module, names in own.items():
        assert module in ROWS
        assert names <= set(importlib.import_module(str(module)).__all__)
