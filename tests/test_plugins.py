"""Components of a user's own: found, checked like any other, and not imported when they have changed."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest

import trainctl as package
from tests.program import run
from trainctl.errors import UnsafeInputError

MODEL = textwrap.dedent(
    """
    import math
    from torch import nn
    from trainctl.registry import MODELS

    @MODELS.register("my_net")
    class MyNet(nn.Module):
        '''A model of my own.'''

        def __init__(self, input_shape, output_size, width: int = 8):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Flatten(),
                nn.Linear(math.prod(input_shape), width),
                nn.ReLU(),
                nn.Linear(width, output_size),
            )

        def forward(self, inputs):
            return self.layers(inputs)
    """
)
FAST = ("threads=1", "train.max_steps=3")


@pytest.fixture
def my_model(tmp_path: Path) -> Path:
    path = tmp_path / "my_model.py"
    path.write_text(MODEL)
    return path


def test_a_file(trainctl, my_model: Path) -> None:
    outcome = trainctl("plugins=[./my_model.py]", "model.name=my_net", "model.width=5", *FAST)
    assert outcome.code == 0, outcome.err
    assert "my_net: 385 parameters" in outcome.out


def test_a_module_of_the_current_folder(trainctl, my_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package_folder = my_model.parent / "my_package_of_tests"
    package_folder.mkdir()
    (package_folder / "__init__.py").write_text("")
    my_model.rename(package_folder / "models.py")
    outcome = trainctl("plugins=[my_package_of_tests.models]", "model.name=my_net", *FAST)
    assert outcome.code == 0, outcome.err
    assert str(my_model.parent) not in sys.path


def test_an_option_file_of_ones_own(trainctl, my_model: Path) -> None:
    folder = my_model.parent / "conf" / "model"
    folder.mkdir(parents=True)
    (folder / "my_net.yaml").write_text("# Mine\nname: my_net\nwidth: 6\n")
    (my_model.parent / "conf" / "local.yaml").write_text("plugins: [./my_model.py]\n")
    outcome = trainctl("model=my_net", *FAST)
    assert outcome.code == 0, outcome.err
    assert "my_net: 460 parameters" in outcome.out
    assert "from ./conf: model/my_net, local" in outcome.out
    listed = trainctl("ls", "model").out
    assert "my_net" in listed
    assert "Mine" in listed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.name=my_net", "model.widht=3"], "did you mean model.width?"),
        (["model.name=my_net", "model.width=three"], "model.width=three: must be a whole number"),
        (["model.name=my_nett"], "did you mean model.name=my_net?"),
        (["model.name=my_net", "model.output_size=3"], "trainctl sets this itself"),
        (["model=my_net"], "model.name=my_net"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_it_is_caught_before_anything_is_built(
    words: list[str], message: str, trainctl, my_model: Path
) -> None:
    outcome = trainctl("plugins=[./my_model.py]", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (my_model.parent / "outputs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import no_such_module\n", "ModuleNotFoundError"),
        ("x = 1\n\n1 / 0\n", "ZeroDivisionError: division by zero (line 3)"),
        ("def broken(:\n", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(
    trainctl, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "bad.py").write_text(content)
    outcome = trainctl("plugins=[./bad.py]")
    assert outcome.code == 2
    assert "./bad.py cannot be imported" in outcome.err
    assert message in outcome.err


def test_a_plugin_that_is_not_there(trainctl) -> None:
    assert "absent.py does not exist" in trainctl("plugins=[./absent.py]").err
    assert "no_such_package" in trainctl("plugins=[no_such_package.models]").err


def test_a_name_that_is_taken_is_refused(trainctl, tmp_path: Path) -> None:
    (tmp_path / "again.py").write_text(MODEL.replace("my_net", "mlp"))
    outcome = trainctl("plugins=[./again.py]")
    assert outcome.code == 2
    assert "registers the model 'mlp', which trainctl.models.mlp" in outcome.err


def test_an_installed_package_with_an_entry_point(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "my_dist-1.0.dist-info").mkdir(parents=True)
    (site / "my_dist-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-dist\nVersion: 1.0\n"
    )
    (site / "my_dist-1.0.dist-info" / "entry_points.txt").write_text("[trainctl.plugins]\nmine = my_dist\n")
    (site / "my_dist.py").write_text(MODEL)
    done = run("model.name=my_net", *FAST, cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert "my_net" in done.stdout


def test_a_run_loads_with_its_plugin_from_another_folder(
    trainctl, my_model: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trainctl("plugins=[./my_model.py]", "model.name=my_net", "hydra.run.dir=run", *FAST).code == 0
    stored = json.loads((my_model.parent / "run/run.json").read_text())["environment"]["plugins"]
    assert [Path(entry["path"]) for entry in stored] == [my_model]
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert type(package.load(my_model.parent / "run")).__name__ == "MyNet"


def test_a_plugin_that_has_changed_is_not_imported_unless_trusted(trainctl, my_model: Path) -> None:
    from trainctl import plugins

    assert trainctl("plugins=[./my_model.py]", "model.name=my_net", "hydra.run.dir=run", *FAST).code == 0
    plugins._loaded.clear()
    my_model.write_text(MODEL + "\nopen('executed', 'w').close()\n")
    with pytest.raises(UnsafeInputError, match="not the file that this run was made with"):
        package.load("run")
    assert not Path("executed").exists()
    assert package.load("run", trust_plugins=True) is not None
    assert Path("executed").exists()
