"""A ten times larger folder of images costs time, not memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

SIZE = 96
PIXELS = 3 * SIZE * SIZE / 2**20


def draw(root: Path, files: int) -> None:
    """Two classes of small images, which take long neither to write nor to decode."""
    for number in range(files):
        folder = root / ("light" if number % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (200 * (number % 2), number % 256, 7)).save(folder / f"{number}.png")


def held(session: int) -> float:
    """MiB that the processes of a session hold for themselves: files' pages can be taken back."""
    kibibytes = 0
    for process in Path("/proc").iterdir():
        try:
            if not process.name.isdigit() or os.getsid(int(process.name)) != session:
                continue
            status = (process / "status").read_text()
        except OSError:
            continue  # it has just ended
        fields = dict(line.split(":", 1) for line in status.splitlines())
        kibibytes += sum(int(fields.get(key, "0 kB").split()[0]) for key in ("RssAnon", "RssShmem"))
    return kibibytes / 1024


def peak(root: Path, epochs: int, *words: str) -> float:
    """Most MiB that a run over the folder holds at one time, workers included."""
    command = [
        *(sys.executable, "-m", "trainctl", "dataset=image_folder", f"dataset.path={root}", "dataset.val=0"),
        *(f"dataset.size=[{SIZE},{SIZE}]", "loader=workers", "loader.workers=2", "model=linear"),
        *(f"epochs={epochs}", "checkpoint.every_epochs=20"),
        *("device=cpu", "threads=1", "display.mode=none", f"hydra.run.dir={root}.run", *words),
    ]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as run:
        most = 0.0
        while run.poll() is None:
            most = max(most, held(run.pid))
            time.sleep(0.05)
        assert run.stderr is not None
        assert run.returncode == 0, run.stderr.read()
    return most


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "words", [("dataset.cache=false",), ("dataset.max_resident_gb=0",)], ids=["decoded", "cached"]
)
def test_a_larger_folder_needs_no_more_memory(words: tuple[str, ...], tmp_path: Path) -> None:
    few, many = 600, 6000
    draw(tmp_path / "few", few)
    draw(tmp_path / "many", many)
    # The same number of steps, so that only the folder is another.
    more = peak(tmp_path / "many", 1, *words) - peak(tmp_path / "few", 10, *words)
    assert more < 0.5 * (many - few) * PIXELS, "the pixels are kept"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_what_is_resident_is_seen_by_the_measurement(tmp_path: Path) -> None:
    draw(tmp_path / "few", 600)
    draw(tmp_path / "many", 6000)
    more = peak(tmp_path / "many", 1, "loader=resident") - peak(tmp_path / "few", 10, "loader=resident")
    assert more > 0.75 * 5400 * PIXELS
