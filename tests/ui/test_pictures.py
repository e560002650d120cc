"""Pictures show what was measured, and are never worth a run."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.helpers.runs import WORDS, record
from trainctl.analysis.curves import read_curves
from trainctl.ui import pictures
from trainctl.ui.pictures import draw_confusion, draw_curves
from trainctl.ui.svg import Axis


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are on."""
    monkeypatch.delenv("TRAINCTL_PICTURES")


def elements(svg: str | None, name: str) -> list[ElementTree.Element]:
    """The elements of this name in a whole SVG."""
    assert svg is not None
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return list(root.iter(f"{{http://www.w3.org/2000/svg}}{name}"))


def texts(svg: str | None) -> list[str]:
    return [each.text or "" for each in elements(svg, "text")]


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    across_and_down = (place.split(",") for place in line.attrib["points"].split())
    return [(float(across), float(down)) for across, down in across_and_down]


def test_a_run_has_curves_and_the_classes_it_confuses(drawn, trainctl, tmp_path: Path) -> None:
    outcome = trainctl(*WORDS, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert "picture: run/curves.svg\npicture: run/confusion.svg\nrun: run\n" in outcome.out
    train, smoothed, val, accuracy, rate = elements((tmp_path / "run/curves.svg").read_text(), "polyline")
    assert [len(points(line)) for line in (train, smoothed, val, accuracy, rate)] == [12, 12, 3, 3, 12]
    values = record(tmp_path / "run")["test"]["test/accuracy"]
    assert f"of 297 correct ({values:.2%})" in " ".join(texts((tmp_path / "run/confusion.svg").read_text()))
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
    assert (tmp_path / "run/curves.svg").is_file()
    assert not (tmp_path / "run/confusion.svg").exists()


@pytest.mark.parametrize("how", ["pictures=false", "the environment"])
def test_they_can_be_turned_off(how: str, drawn, trainctl, tmp_path: Path, monkeypatch) -> None:
    if how == "the environment":
        monkeypatch.setenv("TRAINCTL_PICTURES", "0")
    words = ("pictures=false",) if "=" in how else ()
    assert trainctl(*WORDS, *words, "hydra.run.dir=run").code == 0
    assert not list((tmp_path / "run").glob("*.svg"))


def test_one_that_cannot_be_drawn_keeps_nothing_else_back(
    drawn, trainctl, tmp_path: Path, monkeypatch
) -> None:
    def refuse(*about: object) -> None:
        assert record(tmp_path / "run")["status"] == "done"  # drawn after that, never before
        raise ValueError("no such colour\nand more")

    monkeypatch.setattr(pictures, "draw_curves", refuse)
    outcome = trainctl(*WORDS, "hydra.run.dir=run")
    assert outcome.code == 0
    assert "curves.svg was not drawn: ValueError: no such colour\n" in outcome.out
    assert (tmp_path / "run/confusion.svg").is_file()


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


# ------------------------------------------------------------------ what is drawn


def test_the_matrix_has_the_counts_and_the_names() -> None:
    drawn = draw_confusion([[7, 1], [0, 12]], ("cat", "a <very> long name of a dog"), "made up")
    assert texts(drawn) == [
        *("7", "1", "12", "cat", "cat", "a <very> long n…", "a <very> long n…"),
        *("made up", "19 of 20 correct (95.00%)", "predicted class", "true class"),
    ]
    _, whole, *cells = elements(drawn, "rect")
    x, y, side = float(whole.attrib["x"]), float(whole.attrib["y"]), float(whole.attrib["width"]) / 2
    corners = [(float(cell.attrib["x"]), float(cell.attrib["y"])) for cell in cells]
    assert corners == [(x, y), (x + side, y), (x + side, y + side)]
    assert [title.text for title in elements(drawn, "title")] == ["7 (87.5%)", "1 (12.5%)", "12 (100.0%)"]
    assert draw_confusion([[0, 0], [0, 0]], ("a", "b"), "") is None


@pytest.mark.parametrize("classes", [1, 15, 100, 300])
def test_many_classes_have_fewer_names_and_no_numbers(classes: int) -> None:
    counts = [[int(row == column) for column in range(classes)] for row in range(classes)]
    drawn = draw_confusion(counts, [f"class {number}" for number in range(classes)], "")
    said = texts(drawn)
    assert sum(name.startswith("class") for name in said) <= 2 * 40
    assert said.count("1") == (1 if classes == 1 else 0)
    assert float(ElementTree.fromstring(drawn or "").attrib["width"]) < 1200


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
    drawn = draw_curves(curves, "title \x1b[31m")
    said = texts(drawn)
    assert said[0] == "title \\x1b[31m"
    names = ["loss", "val", "val accuracy", "val f1", "val r2", "learning rate", "step"]
    assert sorted(set(names) - set(said)) == []
    train, _, val, *_ = elements(drawn, "polyline")
    # Of equal steps, equal places; a smaller loss is lower.
    assert [across for across, _ in points(train)][-1] == points(val)[0][0]
    assert [down for _, down in points(train)] == sorted(down for _, down in points(train))
    assert points(train)[4][1] == pytest.approx(points(val)[0][1], abs=0.11)


def test_a_loss_below_zero_and_a_spike_are_drawn_on_a_plain_axis(tmp_path: Path) -> None:
    losses = [-1.0, 5e30, -2.0, -3.0]
    rows = [{"step": step, "epoch": 1, "train/loss": loss, "lr": 0.1} for step, loss in enumerate(losses, 1)]
    assert len(points(elements(draw_curves(read_curves(write(tmp_path, *rows)), ""), "polyline")[0])) == 4


def test_without_a_finite_step_there_is_nothing_to_draw(tmp_path: Path) -> None:
    nan: dict[str, object] = {"step": 1, "epoch": 1, "train/loss": "nan", "lr": "nan"}
    assert draw_curves(read_curves(write(tmp_path)), "") is None
    assert draw_curves(read_curves(write(tmp_path, nan)), "") is None


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 1, 0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Axis(3, 3, 0, 1), [3]),
        (Axis(-7, 12, 0, 1), [-5, 0, 5, 10]),
        (Axis(1e-3, 1, 0, 1, log=True), [1e-3, 1e-2, 1e-1, 1]),
        (Axis(0.2, 3, 0, 1, log=True), [0.2, 0.5, 1, 2]),
        (Axis(1e-12, 1, 0, 1, log=True), [1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1]),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks(6) == pytest.approx(ticks)
