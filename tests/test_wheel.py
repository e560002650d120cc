"""The wheel and the source archive: what they hold, and the wheel in an empty environment."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import trainctl
from tests.helpers.files import put

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


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


def files(folder: Path) -> set[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix() for path in found}


def test_they_hold_the_package_and_its_configs_and_nothing_else(wheel: Path, built: Path) -> None:
    about = f"trainctl-{trainctl.__version__}.dist-info"
    licence = "trainctl/components/datasets/digits.LICENSE.txt"
    assert set(zipfile.ZipFile(wheel).namelist()) == {
        *(files(REPOSITORY / "src") - {licence}),
        *(f"trainctl/conf/{name}" for name in files(REPOSITORY / "conf")),
        *(f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")),
        *(f"{about}/licenses/{name}" for name in ("LICENSE", f"src/{licence}")),
    }
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = [name.partition("/")[2] for name in opened.getnames()]
    assert {name.partition("/")[0] for name in names} == {
        *("src", "conf", "tests", "docs", "benchmarks"),
        *("Makefile", "mkdocs.yml", "constraints.txt", "CHANGELOG.md", "README.md", "LICENSE"),
        *("pyproject.toml", "PKG-INFO", ".gitignore"),
    }
    assert {f"src/{name}" for name in files(REPOSITORY / "src")} <= set(names)
    assert archive.stat().st_size < 3_000_000


def test_a_plain_install_asks_for_no_tool(wheel: Path) -> None:
    about = zipfile.ZipFile(wheel).read(f"trainctl-{trainctl.__version__}.dist-info/METADATA").decode()
    needed = [
        line.split()[1] for line in about.splitlines() if line.startswith("Requires-Dist") and ";" not in line
    ]
    assert sorted(re.split(r"[<>=]", name)[0] for name in needed) == [
        *("annotated-types", "hydra-core", "numpy", "omegaconf", "pillow", "pyarrow", "pydantic"),
        *("pyyaml", "rich", "safetensors", "torch", "torchvision"),
    ]
    assert f"Version: {trainctl.__version__}" in about.splitlines()


@pytest.mark.slow
def test_the_checkers_of_releases_find_nothing(wheel: Path, built: Path) -> None:
    for tool, files in (("twine check --strict", built.glob("*")), ("check_wheel_contents", [wheel])):
        words = tool.split()
        pytest.importorskip(words[0])
        done = subprocess.run(
            [sys.executable, "-m", *words, *map(str, files)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


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
