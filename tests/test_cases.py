"""Inputs that failed once, as people and attackers gave them: each says what is right in its own folder.

The folder is not part of the repository; smaller inputs of the same kinds are made by the tests of each room.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

CASES = Path(__file__).parents[2] / "shared" / "cases"
_NEVER = ("internal error", "Segmentation fault")
_TWO_CODES = r"(?s)rc=2.*rc=2"

# What must be found in the output of each, as regular expressions over all lines.
RIGHT: dict[str, Sequence[str]] = {
    "bom-encoding": (r"train\.csv; 2 number columns", "100 rows in .* p.csv"),
    "csv-index": tuple(
        rf"{name}\.csv; 1 number column; left out column 1" for name in ("shuffled", "unnamed", "plain")
    ),
    "dangling-link": ("22 train, 2 val", "1 broken file left out", "^run: "),
    "detached": ("the loss depends on no parameter", _TWO_CODES),
    "eadir": ("22 train, 2 val", "left out: @eaDir/"),
    "excel-na": tuple(
        rf"\({name}\.csv; 2 number columns; 25 missing in age"
        for name in ("excel", "pandas", "dot", "mysql", "dash", "excel_distinct", "NA")
    ),
    "extra-state": ("_extra_state is dict, not a tensor", "rc=2"),
    "hydra-dirs": (r"error: hydra\.sweep\.subdir", r"error: hydra\.job\.chdir"),
    "inf-buffer": (r"(?s)rc=0.*rc=0",),
    "inplace-input": (r"(?s)(test  step .*?)\n.*\1\n", r"0\.7000(?s:.*)0\.7500(?s:.*)0\.8000"),
    "lazy": (r"(?s)belongs to a lazy layer.*belongs to a lazy layer",),
    "leading-zeros": (*(rf"{name}\.csv; .*: 3 classes" for name in ("e", "two", "big", "t")), r"^\d+,007,"),
    "link-scale": (r"test/r2 0\.7[5-9]",),
    "long-cell": ("43 train, 5 val, 12 test", "^run: "),
    "multi-label": (r"^test .* test/r2 0\.\d", "train.metrics=accuracy: not computed for regression"),
    "na-class": (r"dataset\.missing_marks=\[\] makes such texts classes",),
    "numeric-header": tuple(
        rf"{name}\.csv; .*line 1 is taken for the header; .*: 2 classes" for name in ("t", "years", "numbers")
    ),
    "onnx-len": ("must not fix the batch size", _TWO_CODES),
    "patience-no-val": ("train.patience=2 needs validation data",),
    "plugin-data": (r"bool\nfloat\ncolumn\nlist",),
    "r-rownames": (r"comma\.csv; 2 number columns; left out column 1", "left out column 1: row numbers"),
    "resume-changed-inputs": ("the training data is not what the run was trained on",),
    "resume-column-order": ("the same as recorded in the run", r"(?s)(test/accuracy 0\.9667).*\1"),
    "stale-cache": (r"(?s)decoded in .*decoded in .*^blue/0\.bmp,blue",),
    "sweeps": (
        _TWO_CODES,
        r"error: optim\.lr=glob\(\*\): gives no value",
        r"write train\.clip_norm=null,1\.0",
    ),
    "thousands": (r"(?s)us\.tsv.*test/r2 (0\.99\d+).*right\.csv.*test/r2 \1",),
    "timestamps": (r"(?s)test/r2 (0\.99\d).*test/r2 \1", "^run: "),
    "uint8-targets": (r"test/accuracy 1\.0000", r"c19 +1\.0000 +1\.0000 +1\.0000 +20", "^run: pic"),
    "security-compare_hidden": (r"untouched: rc=0 1 table",),
    "security-env_exfil": ("rc=3", r"seen\.txt.*No such file"),
    "security-export_name": (r"(?s)rc=3.*my production model.*rc=3",),
    "security-run_plugin": (
        r"(?s)(trainctl (eval|export|resume|verify) run.*: rc=3 canary: 0 .*){4}",
        "trainctl.load rc=1 canary: 0",
        "init_from rc=[03] canary: 0",
    ),
    "security-stale_best": (
        r"(?s)(trainctl eval run: rc=0.*){2}",
        "compare run: rc=0",
        "verify run: rc=0",
    ),
    "security-sweep_number": (r"(?m)^rc=3", "home/documents/thesis.txt"),
    "security-sweep_plugin": (r"(?m)^rc=3", "cannot access 'CANARY'"),
    "security-sweep_write": (r"(?m)^rc=3", "home/.bashrc: No such file"),
    "security-terminal_escape": ("train rc=0", "pipe: trainctl eval run: rc=0 "),
}
# What must not be.
WRONG: dict[str, Sequence[str]] = {
    "plugin-data": ("error",),
    "security-compare_hidden": (": rc=[1-9]", "rc=0 0 table"),
    "security-env_exfil": ("s3cr3t",),
    "security-run_plugin": ("canary: [1-9]",),
    "security-terminal_escape": (r"(title|clipboard|screen|escape): [1-9]",),
    "security-sweep_broken_pipe": ("rc=1", '"interrupted"', '"waiting"'),
}
ELSEWHERE = {
    "security-git_diff": "tests/runs/test_git_state.py",
    "security-read_while_writing": "tests/reliability/contention.py",
    "security-sweep_broken_pipe": "tests/reliability/streams.py",
    "security-sweep_kills": "tests/sweep/test_run.py",
    "security-two_resumes": "tests/reliability/contention.py",
}
"""Shown by names that the program no longer has, or too large: tried there."""


def _is_there() -> None:
    if not CASES.is_dir():
        pytest.skip(f"there is no folder {CASES}")


@pytest.mark.slow
def test_each_case_is_tried() -> None:
    _is_there()
    assert {path.parent.name for path in CASES.glob("*/cmd.sh")} == {*RIGHT, *ELSEWHERE}
    root = Path(__file__).parents[1]
    assert all((root / place).is_file() for place in ELSEWHERE.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", RIGHT)
def test_it_gives_what_is_right(name: str, tmp_path: Path) -> None:
    _is_there()
    place = tmp_path / name
    shutil.copytree(CASES / name, place, symlinks=True)
    environment = {
        **os.environ,
        "TRAINCTL": f"{sys.executable} -m trainctl",
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
    }
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["bash", str(place / "cmd.sh")],
            cwd=place, env=environment, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        process.wait(timeout=500)
    finally:  # one of them leaves a process that writes to a pipe which nobody reads
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    said = output.read_text(errors="replace")
    wrong = [text for text in RIGHT[name] if not re.search(text, said, re.MULTILINE)]
    wrong += [f"not: {text}" for text in (*_NEVER, *WRONG.get(name, ())) if re.search(text, said)]
    assert not wrong, said
