"""Imports go one way."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "trainctl"
COMPONENTS = ("models", "losses", "optims", "schedulers", "datasets", "metrics", "loaders", "trackers")
# What a component may use of trainctl beside the private helpers of its own package.
SHARED = ("errors", "family", "ranges", "registry", "data", "scratch", "files")
# Who may import what comes from outside.
OUTSIDE = {
    "hydra": ("cli", "compose", "sweep"),
    "omegaconf": ("cli", "compose", "sweep"),
    "rich": ("ui",),
}
NO_TORCH = (
    "cli",
    "compose",
    "config",
    "errors",
    "locations",
    "plugins",
    "ranges",
    "registry",
    "rundir",
    "signature",
    "sweep",
    "ui",
    "words",
    "commands",
)


def imports_of(path: Path, *, top_level_only: bool = False) -> list[str]:
    """The modules that a file imports, dotted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def violations(source: Path) -> list[str]:
    """Every import below ``source`` that goes the wrong way."""
    wrong = []
    for path in sorted(source.rglob("*.py")):
        relative = path.relative_to(source)
        part = relative.parts[0].removesuffix(".py")
        for module in imports_of(path):
            root, _, rest = module.partition(".")
            allowed = OUTSIDE.get(root)
            if allowed is not None and part not in allowed:
                wrong.append(f"{relative} imports {root}")
            if root == "trainctl" and part in COMPONENTS:
                target = rest.split(".")
                own_helper = target[0] == part and len(target) > 1 and target[1].startswith("_")
                if target[0] not in SHARED and not own_helper:
                    wrong.append(f"{relative} imports {module}")
            if (
                root == "trainctl"
                and part == "loop"
                and rest.split(".")[0] not in ("hooks", "protocol", "state")
            ):
                wrong.append(f"{relative} imports {module}")
            if (
                root == "trainctl"
                and part == "build"
                and rest.split(".")[0] in ("cli", "compose", "commands", "ui")
            ):
                wrong.append(f"{relative} imports {module}")
        # The engine of the fused launcher is imported by the workers, behind its package.
        engine = relative.parts[:2] == ("sweep", "fused") and path.name.startswith("_")
        if part in NO_TORCH and not (engine and path.name != "__init__.py"):
            top = [
                module for module in imports_of(path, top_level_only=True) if module.split(".")[0] == "torch"
            ]
            wrong += [f"{relative} imports torch when it is imported" for _ in top]
    return wrong


def test_imports_go_one_way() -> None:
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        (
            "models/mlp.py",
            "from trainctl.config import Config",
            "models/mlp.py imports trainctl.config.Config",
        ),
        (
            "models/mlp.py",
            "from trainctl.models.linear import Linear",
            "models/mlp.py imports trainctl.models.linear",
        ),
        ("optims/adam.py", "from trainctl.loop import fit", "optims/adam.py imports trainctl.loop.fit"),
        ("config.py", "import hydra", "config.py imports hydra"),
        ("build.py", "from omegaconf import OmegaConf", "build.py imports omegaconf"),
        ("build.py", "from trainctl.compose import Composer", "build.py imports trainctl.compose"),
        ("loop.py", "from rich import print", "loop.py imports rich"),
        ("loop.py", "from trainctl.build import build", "loop.py imports trainctl.build.build"),
        ("cli.py", "import torch", "cli.py imports torch when it is imported"),
    ],
)
def test_an_import_turned_round_is_noticed(file: str, line: str, expected: str, tmp_path: Path) -> None:
    copy = tmp_path / "trainctl"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / file).write_text(
        (copy / file).read_text().replace("import annotations", f"import annotations\n{line}", 1)
    )
    assert any(found.startswith(expected) for found in violations(copy))


def test_the_training_step_is_the_plain_one() -> None:
    text = (SOURCE / "loop.py").read_text()
    step = text[text.index("def train_step") : text.index("def evaluate")]
    body = [line.strip() for line in step.split('"""')[2].splitlines() if line.strip()]
    assert body == [
        "with precision:",
        "loss = criterion(model(inputs), targets)",
        "optimizer.zero_grad()",
        "loss.backward()",
        "optimizer.step()",
        "return loss.detach()  # type: ignore[no-any-return]",
    ]
