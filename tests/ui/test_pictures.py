"""Pictures show what was measured, and are never worth a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.font_manager  # noqa: F401 - here, before a test takes its cache away
import pytest
from PIL import Image

from tests.helpers.program import run as run_program
from tests.helpers.runs import WORDS, record
from trainctl.analysis.curves import read_curves
from trainctl.ui import pictures
from trainctl.ui.pictures import draw_confusion, draw_curves


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are on."""
    monkeypatch.delenv("TRAINCTL_PICTURES")


def pixels(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        # More than one colour: something is drawn.
        assert len(image.convert("RGB").getcolors(1 << 20) or range(99)) > 20
        return image.size


def test_a_run_has_curves_and_the_classes_it_confuses(drawn, trainctl, tmp_path: Path) -> None:
    outcome = trainctl(*WORDS, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert "picture: run/curves.png\npicture: run/confusion.png\nrun: run\n" in outcome.out
    assert pixels(tmp_path / "run/curves.png") == (960, 720)
    assert min(pixels(tmp_path / "run/confusion.png")) > 500
    assert not any(path.name.startswith(".c") for path in (tmp_path / "run").iterdir())


def test_what_is_counted_is_the_test_on_the_best_checkpoint(
    drawn, trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(pictures, "draw_confusion", lambda *about: seen.append(about))
    # At this rate the last evaluation is not the best.
    assert trainctl(*WORDS[1:], "epochs=6", "lr=0.5", "hydra.run.dir=run").code == 0
    ((counts, classes, what),) = seen
    values = record(tmp_path / "run")
    assert values["best"]["step"] != values["last"]["step"]
    assert what == f"digits, test, checkpoint of step {values['best']['step']}"
    assert sum(counts[number][number] for number in range(10)) / sum(map(sum, counts)) == pytest.approx(
        values["test"]["test/accuracy"], abs=1e-12
    )
    assert "confusion" not in "".join(values["test"])
    assert classes == tuple("0123456789")


def test_without_a_test_split_it_is_the_validation(drawn, trainctl, tmp_path: Path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(pictures, "draw_confusion", lambda *about: seen.append(about))
    (tmp_path / "untested.py").write_text(
        "import torch\nfrom trainctl.data import Data, Split, Standardize\n"
        "from trainctl.registry import DATASETS\n\n\n@DATASETS.register('untested')\ndef untested():\n"
        "    points = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))\n"
        "    split = Split(points, (points.sum(1) > 1).long())\n"
        "    return Data('untested', 'classification', split, None, (2,), 2, Standardize())\n"
    )
    words = ("plugins=[./untested.py]", "dataset.name=untested", "threads=1", "epochs=6", "lr=0.3")
    assert trainctl(*words, "hydra.run.dir=run").code == 0
    values = record(tmp_path / "run")
    assert values["test"] is None
    ((counts, _, what),) = seen
    assert ", val, " in what
    correct = sum(row[number] for number, row in enumerate(counts))
    assert correct / sum(map(sum, counts)) == pytest.approx(values["best"]["val/accuracy"], abs=1e-12)


def test_a_regression_has_curves_only(drawn, trainctl, tmp_path: Path) -> None:
    words = ("dataset=thermometer", "model=linear", "loss=mse", "epochs=3", "batch_size=3", "dataset.val=2")
    outcome = trainctl(*words, "threads=1", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run/curves.png").is_file()
    assert not (tmp_path / "run/confusion.png").exists()


@pytest.mark.parametrize("how", ["pictures=false", "the environment"])
def test_they_can_be_turned_off(how: str, drawn, trainctl, tmp_path: Path, monkeypatch) -> None:
    if how == "the environment":
        monkeypatch.setenv("TRAINCTL_PICTURES", "0")
    words = ("pictures=false",) if "=" in how else ()
    assert trainctl(*WORDS, *words, "hydra.run.dir=run").code == 0
    assert not list((tmp_path / "run").glob("*.png"))


def test_without_matplotlib_the_run_is_done_and_says_so(drawn, trainctl, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    outcome = trainctl(*WORDS, "hydra.run.dir=run")
    assert outcome.code == 0
    assert outcome.out.count("no pictures: ") == 1
    assert "pip install matplotlib, or pictures=false" in outcome.out
    assert "no pictures" in (tmp_path / "run/train.log").read_text()
    assert record(tmp_path / "run")["status"] == "done"


def test_one_that_cannot_be_drawn_keeps_nothing_else_back(
    drawn, trainctl, tmp_path: Path, monkeypatch
) -> None:
    def refuse(*about: object) -> None:
        assert record(tmp_path / "run")["status"] == "done"  # drawn after that, never before
        raise ValueError("no such colour\nand more")

    monkeypatch.setattr(pictures, "draw_curves", refuse)
    outcome = trainctl(*WORDS, "hydra.run.dir=run")
    assert outcome.code == 0
    assert "curves.png was not drawn: ValueError: no such colour\n" in outcome.out
    assert (tmp_path / "run/confusion.png").is_file()


def test_a_signal_while_they_are_drawn_leaves_the_run_done(
    drawn, trainctl, tmp_path: Path, monkeypatch
) -> None:
    def interrupt(*about: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "draw_curves", interrupt)
    outcome = trainctl(*WORDS, "hydra.run.dir=run")
    assert outcome.code == 130
    assert "interrupted after the end of the run" in outcome.out
    assert "test  step 12" in outcome.out
    assert (record(tmp_path / "run")["status"], record(tmp_path / "run")["exit_code"]) == ("done", 0)


@pytest.mark.slow
def test_matplotlib_is_imported_after_the_end_and_without_a_screen(drawn, tmp_path: Path) -> None:
    (tmp_path / "watch.py").write_text(
        "import atexit, sys\n"
        "from pathlib import Path\n"
        "from trainctl.runs.record import RunRecord\n"
        "update = RunRecord.update\n"
        "def watched(self, **values):\n"
        "    if values.get('status') == 'done':\n"
        "        Path('before').write_text(str('matplotlib' in sys.modules))\n"
        "    update(self, **values)\n"
        "RunRecord.update = watched\n"
        "names = ('matplotlib', 'matplotlib.pyplot', 'torch._dynamo')\n"
        "atexit.register(lambda: Path('after').write_text(str([name in sys.modules for name in names])))\n"
    )
    done = run_program(*WORDS, "plugins=[./watch.py]", cwd=tmp_path, TRAINCTL_PICTURES="1", DISPLAY=":99")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "before").read_text() == "False"
    assert (tmp_path / "after").read_text() == "[True, False, False]"


# ------------------------------------------------------------------ what is drawn


def test_the_figure_has_the_counts_and_the_names() -> None:
    figure = draw_confusion([[7, 1], [0, 12]], ("cat", "a very long name of a dog"), "made up")
    assert figure is not None
    axis = figure.axes[0]
    assert sorted(text.get_text() for text in axis.texts) == ["1", "12", "7"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "a very long nam…"]
    assert axis.get_title() == "made up\n19 of 20 correct (95.00%)"
    assert draw_confusion([[0, 0], [0, 0]], ("a", "b"), "") is None


@pytest.mark.parametrize("classes", [1, 15, 100, 300])
def test_many_classes_have_fewer_names_and_no_numbers(classes: int) -> None:
    counts = [[int(row == column) for column in range(classes)] for row in range(classes)]
    figure = draw_confusion(counts, [f"class {number}" for number in range(classes)], "")
    assert figure is not None
    assert len(figure.axes[0].get_xticks()) <= 40
    assert len(figure.axes[0].texts) == (1 if classes == 1 else 0)
    assert max(figure.get_size_inches()) <= 11


def write(directory: Path, *rows: dict[str, object]) -> Path:
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_curves_are_what_the_file_says(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"step": step, "epoch": 1, "train/loss": 1 / step, "lr": 0.1} for step in range(1, 9)
    ]
    rows.insert(4, {"step": 4, "epoch": 1, "train/loss": "nan", "lr": "inf"})
    rows.append({"step": 8, "epoch": 1, "val/loss": 0.2, "val/r2": -3.0, "val/f1": 0.5, "val/accuracy": 0.7})
    rows.append({"step": 8, "epoch": 1, "test/loss": 0.3})
    curves = read_curves(write(tmp_path, *rows))
    assert [step for step, _ in curves.train] == list(range(1, 9))
    figure = draw_curves(curves, "title")
    assert figure is not None
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "val", "val r2", "learning rate"]
    val = figure.axes[0].get_lines()[2]
    assert (list(val.get_xdata()), list(val.get_ydata())) == ([8], [0.2])
    assert [line.get_label() for line in figure.axes[1].get_lines()] == ["val f1", "val accuracy"]


def test_without_a_finite_step_there_is_nothing_to_draw(tmp_path: Path) -> None:
    nan: dict[str, object] = {"step": 1, "epoch": 1, "train/loss": "nan", "lr": "nan"}
    assert draw_curves(read_curves(write(tmp_path)), "") is None
    assert draw_curves(read_curves(write(tmp_path, nan)), "") is None
