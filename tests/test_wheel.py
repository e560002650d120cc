"""The wheel, installed in an empty environment outside the repository."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.helpers.files import put

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and sees the dependencies, but not the checkout."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # Dependencies come from here; a .pth inside that folder, such as the editable install's, is not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    install = [
        *pip,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    return environment / "bin" / "trainctl"


def test_it_carries_the_configs_the_digits_and_the_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for part in (
        "trainctl/conf/config.yaml",
        "trainctl/conf/experiment/mnist_mlp.yaml",
        "trainctl/components/datasets/digits.safetensors",
        "trainctl/py.typed",
    ):
        assert part in names
    assert any(name.endswith("digits.LICENSE.txt") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=mlp", "optim=adam", "lr=1e-3", "epochs=1", "threads=1"], "test/accuracy"),
        pytest.param(["model=sequential", "epochs=1", "threads=1"], "sequential", marks=pytest.mark.slow),
        (["-m", "lr=1e-2,1e-3", "seed=1,2", "epochs=1", "threads=1"], "lr=0.001 seed=2"),
        (["--cfg", "job"], "name: mlp"),
        pytest.param(["ls", "model"], "sequential", marks=pytest.mark.slow),
        (["-sc", "install=bash"], "complete"),
        (["--help"], "trainctl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_works_from_any_folder(installed: Path, words: list[str], expected: str, tmp_path: Path) -> None:
    # An unrelated project's conf must not get in the way.
    put(tmp_path / "conf" / "config.yaml", "defaults: [database]\nunrelated: true\n")
    done = subprocess.run([str(installed), *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_it_is_the_wheel_that_runs(installed: Path, tmp_path: Path) -> None:
    python = installed.with_name("python")
    program = "import trainctl; print(trainctl.__file__)"
    done = subprocess.run(
        [str(python), "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert REPOSITORY not in Path(done.stdout.strip()).parents
