"""Components of a user's own: found, checked like any other, and not imported when they have changed."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainctl as package
from tests.helpers.files import put
from tests.helpers.program import run
from trainctl.cli.main import main
from trainctl.errors import UnsafeInputError
from trainctl.registry import MODELS, plugins

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
    put(my_model.parent / "conf" / "model" / "my_net.yaml", "# Mine\nname: my_net\nwidth: 6\n")
    (my_model.parent / "conf" / "local.yaml").write_text("plugins: [./my_model.py]\n")
    outcome = trainctl("model=my_net", *FAST)
    assert outcome.code == 0, outcome.err
    assert "my_net: 460 parameters" in outcome.out
    assert "from ./conf: model/my_net, local" in outcome.out
    listed = trainctl("ls", "model").out
    assert "my_net" in listed
    assert "Mine" in listed


@pytest.mark.quick(1)
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
        ("import sys\nsys.exit(3)\n", "SystemExit"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(
    trainctl, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "bad.py").write_text(content)
    outcome = trainctl("plugins=[./bad.py]")
    assert outcome.code == 2
    assert "./bad.py cannot be imported" in outcome.err
    assert outcome.err.count("line ") <= 1
    assert message in outcome.err


@pytest.mark.parametrize(
    ("group", "function", "says"),
    [
        ("loss", "outputs, targets", "needs outputs, targets"),
        ("model", "inputs, width=3", "needs inputs"),
        ("optim", "params: torch.Tensor, lr: float", "needs params"),
    ],
)
def test_a_function_that_is_the_component_and_does_not_make_it(
    trainctl, tmp_path: Path, group: str, function: str, says: str
) -> None:
    (tmp_path / "p.py").write_text(
        "import torch\nfrom trainctl.registry import COMPONENTS\n"
        f"@COMPONENTS['{group}'].register('plain')\ndef plain({function}):\n    pass\n"
    )
    outcome = trainctl("plugins=[p.py]", f"{group}.name=plain")
    assert outcome.code == 2
    assert f"{group}=plain: its function is called once, before training, and {says}\n" in outcome.err
    assert "return" in outcome.err
    assert "is missing" not in outcome.err


def test_a_plugin_that_is_not_there(trainctl) -> None:
    assert "absent.py does not exist" in trainctl("plugins=[./absent.py]").err
    assert "no_such_package" in trainctl("plugins=[no_such_package.models]").err


def test_a_name_that_is_taken_is_refused(trainctl, tmp_path: Path) -> None:
    (tmp_path / "again.py").write_text(MODEL.replace("my_net", "mlp"))
    outcome = trainctl("plugins=[./again.py]")
    assert outcome.code == 2
    assert "registers the model 'mlp', a name taken by trainctl.components.models.mlp" in outcome.err


@pytest.mark.slow
def test_an_installed_package_with_an_entry_point(tmp_path: Path) -> None:
    site = tmp_path / "site"
    put(site / "my_dist-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: my-dist\nVersion: 1.0\n")
    (site / "my_dist-1.0.dist-info" / "entry_points.txt").write_text("[trainctl.plugins]\nmine = my_dist\n")
    (site / "my_dist.py").write_text(MODEL)
    done = run("model.name=my_net", *FAST, cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert "my_net" in done.stdout


@pytest.mark.slow
def test_a_run_loads_with_its_plugin_from_another_folder(
    trainctl, my_model: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trainctl("plugins=[./my_model.py]", "model.name=my_net", "hydra.run.dir=run", *FAST).code == 0
    stored = json.loads((my_model.parent / "run/run.json").read_text())["environment"]["plugins"]
    assert [Path(entry["path"]) for entry in stored] == [my_model]
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert type(package.load(my_model.parent / "run")).__name__ == "MyNet"


def test_a_plugin_that_has_changed_is_not_imported_unless_trusted(trainctl, my_model: Path) -> None:
    assert trainctl("plugins=[./my_model.py]", "model.name=my_net", "hydra.run.dir=run", *FAST).code == 0
    plugins._loaded.clear()
    my_model.write_text(MODEL + "\nopen('executed', 'w').close()\n")
    with pytest.raises(UnsafeInputError, match="not the file that this run was made with"):
        package.load("run")
    assert not Path("executed").exists()
    assert package.load("run", trust_plugins=True) is not None
    assert Path("executed").exists()


# ------------------------------------------------------------------ modules of stored runs

PACKAGE = "my_package_of_runs"
LOUD = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n"


def write_package(folder: Path, start: str = "", *, init: bool = True) -> Path:
    """A package with the model in its module ``models``; ``start`` is what its files begin with."""
    package_folder = folder / PACKAGE
    package_folder.mkdir(parents=True)
    if init:
        (package_folder / "__init__.py").write_text(start)
    (package_folder / "models.py").write_text(start + MODEL)
    return package_folder


def forget() -> None:
    """Be a process that has imported none of it."""
    plugins._loaded.clear()
    MODELS._entries.pop("my_net", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture(scope="module", params=[True, False], ids=["a package", "a folder without __init__"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package, and a run that was trained in it."""
    folder = tmp_path_factory.mktemp("project")
    write_package(folder, init=request.param)
    before = Path.cwd()
    os.chdir(folder)
    try:
        words = (f"plugins=[{PACKAGE}.models]", "model.name=my_net", "display.mode=none")
        assert main([*words, "hydra.run.dir=run", *FAST]) == 0
    finally:
        os.chdir(before)
        forget()
    return folder


@pytest.fixture
def elsewhere(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The current folder, another than the project's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(folder)
    forget()
    yield folder
    forget()


def use(trainctl, run: Path) -> None:
    """Use a run by the program and in Python, each as a process of its own would."""
    outcome = trainctl("eval", str(run))
    assert outcome.code == 0, outcome.err
    forget()
    assert type(package.load(run)).__module__ == f"{PACKAGE}.models"
    assert sys.modules[f"{PACKAGE}.models"].__file__ == str(run.parent / PACKAGE / "models.py")


def test_a_run_with_a_module_is_used_from_another_folder(trainctl, project: Path, elsewhere: Path) -> None:
    path = list(sys.path)
    use(trainctl, project / "run")
    assert sys.path == path


def test_a_run_with_a_module_is_resumed_from_another_folder(trainctl, project: Path, elsewhere: Path) -> None:
    run = shutil.copytree(project / "run", elsewhere / "run")
    outcome = trainctl("resume", str(run), "train.max_steps=4", "--trust-plugins")  # it is a copy
    assert outcome.code == 0, outcome.err
    (entry,) = json.loads((run / "run.json").read_text())["environment"]["plugins"]
    assert entry["path"] == str(project / PACKAGE / "models.py")


@pytest.mark.parametrize("first", [False, True], ids=["", "first on the path"])
def test_a_module_of_the_same_name_in_the_current_folder_is_not_executed(
    trainctl, project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    other = write_package(elsewhere, LOUD)
    if first:
        monkeypatch.syspath_prepend(elsewhere)
    use(trainctl, project / "run")
    assert not (other / "executed").exists()


def test_a_module_that_is_another_file_here_is_refused_before_it_is_executed(
    trainctl, project: Path, elsewhere: Path
) -> None:
    """A config that says the module's name alone, as that of an installed package does."""
    run = shutil.copytree(project / "run", elsewhere / "run")
    for name in ("run.json", "config.yaml"):
        text = (run / name).read_text()
        assert f"{project}/{PACKAGE}.models" in text
        (run / name).write_text(text.replace(f"{project}/{PACKAGE}.models", f"{PACKAGE}.models"))
    other = write_package(elsewhere, LOUD)
    outcome = trainctl("eval", "run")
    assert outcome.code == 3
    assert "you did not train it on this machine" in outcome.err
    with pytest.raises(UnsafeInputError, match="did not train"):
        package.load("run")
    assert not (other / "executed").exists()
    shutil.rmtree(other)
    assert trainctl("eval", "run").code == 3
    os.chdir(project)
    use_here = trainctl("eval", str(run), "--trust-plugins")
    assert use_here.code == 0, use_here.err


def test_what_has_come_before_the_recorded_file_is_refused_before_it_is_executed(
    trainctl, project: Path, elsewhere: Path
) -> None:
    """A package comes before a module of the same name."""
    folder = project / PACKAGE / "models"
    folder.mkdir()
    try:
        (folder / "__init__.py").write_text(LOUD + MODEL)
        assert trainctl("eval", str(project / "run")).code == 3
        assert not (folder / "executed").exists()
    finally:
        shutil.rmtree(folder)


def test_a_module_that_has_changed_is_imported_from_its_folder_where_it_is_trusted(
    trainctl, project: Path, elsewhere: Path
) -> None:
    file = project / PACKAGE / "models.py"
    file.write_text(MODEL + "\n# changed\n")
    try:
        outcome = trainctl("eval", str(project / "run"))
        assert outcome.code == 3
        assert "--trust-plugins" in outcome.err
        outcome = trainctl("eval", str(project / "run"), "--trust-plugins")
        assert outcome.code == 0, outcome.err
    finally:
        file.write_text(MODEL)


def test_a_module_of_the_same_name_that_was_imported_is_in_the_way(
    project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_package(elsewhere)
    monkeypatch.syspath_prepend(elsewhere)
    importlib.import_module(f"{PACKAGE}.models")
    MODELS._entries.pop("my_net")
    with pytest.raises(UnsafeInputError, match="cannot be imported beside") as caught:
        package.load(project / "run")
    assert str(other) in str(caught.value)
    assert "my_net" not in MODELS._entries


def test_a_module_of_a_folder_that_is_named(trainctl, project: Path, elsewhere: Path) -> None:
    outcome = trainctl(f"plugins=[{project}/{PACKAGE}.models]", "model.name=my_net", *FAST)
    assert outcome.code == 0, outcome.err
    outcome = trainctl(f"plugins=[./{PACKAGE}.models]")
    assert outcome.code == 2
    assert f"there is no module {PACKAGE}.models in {elsewhere}" in outcome.err


def test_an_installed_module_keeps_its_name(
    project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = elsewhere / "site-packages"
    write_package(site)
    monkeypatch.syspath_prepend(site)
    assert plugins.absolute(f"{PACKAGE}.models") == f"{PACKAGE}.models"
    (entry,) = plugins.load([f"{PACKAGE}.models"])
    assert (entry["name"], entry["path"]) == (f"{PACKAGE}.models", str(site / PACKAGE / "models.py"))
    plugins.refuse_changed([f"{PACKAGE}.models"], [entry])
    assert plugins.absolute("no_such_package.models") == "no_such_package.models"


# ------------------------------------------------------------------ faults

HEAD = """
import torch
from torch import nn
from trainctl.data import Data, Split, Standardize
from trainctl.registry import DATASETS, LOSSES, MODELS, OPTIMIZERS, SCHEDULERS
"""
DATASET = """
@DATASETS.register('bad')
def bad():
    split = Split(torch.zeros(99, 4), torch.arange(99) % 2)
    return Data('bad', '{task}', split, None, ({size},), 2, Standardize())
"""
FAULTS = {
    "model": (
        """
@MODELS.register('bad')
class Bad(nn.Module):
    def __init__(self):
        raise RuntimeError('n is bad')
""",
        "model=bad cannot be built: RuntimeError: n is bad",
    ),
    "dataset": (
        """
@DATASETS.register('bad')
def bad():
    raise FileNotFoundError('no file foo.csv')
""",
        "dataset=bad cannot be built: FileNotFoundError: no file foo.csv",
    ),
    "optim": (
        """
@OPTIMIZERS.register('bad')
def bad(parameters):
    return None
""",
        "optim=bad built a NoneType",
    ),
    "optim that needs a closure": (
        """
@OPTIMIZERS.register('bad')
def bad(parameters):
    return torch.optim.LBFGS(parameters)
""",
        "optim=bad: its step needs closure",
    ),
    "scheduler": (
        """
@SCHEDULERS.register('bad')
def bad(optimizer):
    return 3
""",
        "scheduler=bad built a int",
    ),
    "loss": (
        """
@LOSSES.register('bad')
class Bad(nn.Module):
    steps = 0

    def forward(self, outputs, targets):
        self.steps += 1
        if self.steps > 2:
            raise ValueError('loss blew')
        return outputs.sum()
""",
        "ValueError: loss blew",
    ),
    "dataset of another shape": (
        DATASET.format(task="classification", size=5),
        "says input_shape (5,), but gives (4,)",
    ),
    "dataset of no task": (
        DATASET.format(task="clasification", size=4),
        "task 'clasification' does not exist",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow
def test_a_fault_in_it_is_its_own_not_an_internal_error(trainctl, tmp_path: Path, fault: str) -> None:
    code, message = FAULTS[fault]
    (tmp_path / "bad.py").write_text(HEAD + code)
    outcome = trainctl("plugins=[./bad.py]", "threads=1", f"{fault.partition(' ')[0]}.name=bad")
    assert outcome.code == 2
    assert message in outcome.err
    assert "internal error" not in outcome.err


FIVE = """
import torch
from torch import nn
from trainctl.data import Data, Split, Standardize
from trainctl.registry import DATASETS, LOSSES, METRICS, MODELS, OPTIMIZERS


@MODELS.register("my_model")
class MyModel(nn.Linear):
    def __init__(self, input_shape, output_size):
        super().__init__(input_shape[0], output_size)


@DATASETS.register("my_data")
def my_data(samples: int = 200):
    points = torch.rand(samples, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    split = Split(points, (points.sum(1) > 0).long())
    return Data("my_data", "classification", split, split, (2,), 2, Standardize())


@LOSSES.register("my_loss")
class MyLoss(nn.CrossEntropyLoss):
    target = "class"

    def __init__(self, smoothing: float = 0.0):
        super().__init__(label_smoothing=smoothing)


@OPTIMIZERS.register("my_optimizer")
def my_optimizer(parameters, lr: float = 0.1):
    return torch.optim.SGD(parameters, lr=lr)


@METRICS.register("my_metric")
class MyMetric:
    task = "classification"
    lower_is_better = True

    def __init__(self):
        self.wrong, self.count = 0, 0

    def update(self, outputs, targets):
        self.wrong += int((outputs.argmax(1) != targets).sum())
        self.count += len(targets)

    def compute(self):
        return self.wrong / self.count
"""
ALL_FIVE = (
    "model.name=my_model",
    "dataset.name=my_data",
    "loss.name=my_loss",
    "loss.smoothing=0.1",
    "optim.name=my_optimizer",
    "train.metrics=[my_metric]",
    "train.monitor=val/my_metric",
    "epochs=4",
    "threads=1",
    "batch_size=16",
)


def test_all_five_kinds_from_a_file_outside_the_repository(trainctl, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FIVE)
    outcome = trainctl("plugins=[./mine.py]", *ALL_FIVE, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    values = json.loads((tmp_path / "run/run.json").read_text())
    assert values["test"]["test/my_metric"] < 0.2
    assert type(package.load("run")).__name__ == "MyModel"
    refused = trainctl("plugins=[./mine.py]", *ALL_FIVE, "loss.smothing=0.2")
    assert "did you mean loss.smoothing?" in refused.err


def test_a_component_that_no_plugin_registers_is_looked_for_in_the_files_here(
    trainctl, tmp_path: Path
) -> None:
    refused = trainctl("model=my_net")
    assert refused.code == 2
    assert "if it is your own: plugins=[./FILE.py] model.name=my_net, or name the file in conf" in refused.err
    (tmp_path / "nets.py").write_text('raise SystemExit("imported")\n@MODELS.register("my_net")\n')
    for word in ("model=my_net", "model.name=my_net"):
        refused = trainctl(word)
        assert refused.code == 2
        assert "nets.py registers it: type 'plugins=[./nets.py]' model.name=my_net" in refused.err
