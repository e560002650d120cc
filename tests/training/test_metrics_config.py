"""``train.metrics``: what can be written, what is refused before anything is built, what a run computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.configs import base, changed, problems_of
from tests.helpers.program import modules_after
from trainctl.components.metrics.accuracy import Accuracy
from trainctl.config.settings import Component
from trainctl.config.validation import check
from trainctl.data import Data, Split, Standardize
from trainctl.errors import ConfigError
from trainctl.registry import METRICS
from trainctl.training.display import number, visible
from trainctl.training.evaluation import choose_metrics, choose_monitor
from trainctl.ui.live import Rich

# Some of each: a new metric is no change of this file.
CLASSIFICATION = {"accuracy", "auroc", "balanced_accuracy", "f1", "per_class_accuracy", "top_k_accuracy"}
REGRESSION = {"mae", "mse", "r2"}


def data(task: Any = "classification", outputs: int = 10, classes: tuple[str, ...] = ()) -> Data:
    split = Split(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    return Data("made", task, split, None, (2,), outputs, Standardize(), classes=classes)


def chosen(*entries: Any) -> tuple[Component, ...] | None:
    return check(changed("train.metrics", list(entries))).metrics


# --------------------------------------------------------------------- the check


def test_auto_leaves_the_choice_to_the_task() -> None:
    assert check(base()).metrics is None
    assert list(choose_metrics(None, data())) == ["accuracy"]
    assert list(choose_metrics(None, data("regression", 2))) == ["mse", "mae", "r2"]


def test_names_and_names_with_arguments_keep_their_order() -> None:
    assert chosen("f1", {"top_k_accuracy": {"k": 3}}, {"accuracy": {}}) == (
        Component("metric", "f1"),
        Component("metric", "top_k_accuracy", {"k": 3}),
        Component("metric", "accuracy"),
    )
    assert chosen() == ()


FORM = "must be auto, or a list such as [accuracy, {top_k_accuracy: {k: 3}}]"


@pytest.mark.parametrize(
    ("value", "message", "remedy"),
    [
        ("f1", f"train.metrics=f1: {FORM}", ""),
        (None, f"train.metrics=null: {FORM}", ""),
        ([["f1"]], f"train.metrics=[[f1]]: {FORM}", ""),
        ([{"f1": "macro"}], f"train.metrics=[{{f1: macro}}]: {FORM}", ""),
        ([{"f1": {}, "accuracy": {}}], f"train.metrics=[{{f1: {{}}, accuracy: {{}}}}]: {FORM}", ""),
        (
            ["acuracy"],
            "train.metrics=acuracy: there is no such metric",
            "did you mean accuracy? if it is your own: plugins=[./FILE.py] train.metrics=acuracy, or name",
        ),
        (
            [{"zzzzzz": {"k": 1}}],
            "train.metrics=zzzzzz: there is no such metric",
            "if it is your own: plugins=[./FILE.py] train.metrics=zzzzzz, or name the file in conf/",
        ),
        (["f1", {"f1": {"average": "micro"}}], "train.metrics=f1: listed twice", ""),
        (
            [{"f1": {"averag": 1}}],
            "train.metrics.f1.averag=1: metric f1 has no argument 'averag'",
            "did you mean train.metrics.f1.average? metric f1 takes: average",
        ),
        ([{"f1": {"name": "mae"}}], "train.metrics.f1.name=mae: metric f1 has no argument 'name'", ""),
        (
            [{"auroc": {"k": 1}}],
            "train.metrics.auroc.k=1: metric auroc has no argument 'k'",
            "metric auroc takes no arguments",
        ),
        (
            [{"top_k_accuracy": {"k": 0}}],
            "train.metrics.top_k_accuracy.k=0: must be a whole number of at least 1",
            "default: 5",
        ),
        (
            [{"per_class_accuracy": {"classes": []}}],
            "train.metrics.per_class_accuracy.classes=[]: trainctl sets this itself",
            "",
        ),
    ],
    ids=str,
)
def test_a_wrong_entry_is_one_problem_and_is_told_what_to_type(value: Any, message: str, remedy: str) -> None:
    (problem,) = problems_of(changed("train.metrics", value))
    assert problem.message == message
    assert (problem.remedy or "").startswith(remedy)


def test_the_problems_of_all_entries_and_of_other_settings_come_at_once() -> None:
    values = changed("train.metrics", ["f11", {"f1": {"average": 3, "k": 1}}, {"top_k_accuracy": {"k": 0}}])
    values["train"]["batch_size"] = 0
    keys = [problem.message.partition("=")[0] for problem in problems_of(values)]
    assert sorted(keys) == sorted(
        [
            "train.batch_size",
            "train.metrics",
            "train.metrics.f1.average",
            "train.metrics.f1.k",
            "train.metrics.top_k_accuracy.k",
        ]
    )


def test_a_metric_of_ones_own_is_checked_like_the_others() -> None:
    @METRICS.register("mine")
    class Mine(Accuracy):
        def __init__(self, weight: float = 1.0) -> None:
            super().__init__()

    assert chosen({"mine": {"weight": 2}}) == (Component("metric", "mine", {"weight": 2.0}),)
    (problem,) = problems_of(changed("train.metrics", [{"mine": {"weight": "x"}}]))
    assert problem.message == "train.metrics.mine.weight=x: must be a number"


# ------------------------------------------------------------------ task and data


@pytest.mark.parametrize(
    ("task", "names", "fitting"),
    [("classification", ["mae", "f1", "r2"], CLASSIFICATION), ("regression", ["f1", "mse"], REGRESSION)],
)
def test_a_metric_of_the_other_task_is_refused_with_those_that_fit(
    task: str, names: list[str], fitting: set[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_metrics([Component("metric", name) for name in names], data(task))
    misfits = [problem.message.partition(":")[0] for problem in caught.value.problems]
    assert misfits == [f"train.metrics={name}" for name in names if name not in fitting]
    for problem in caught.value.problems:
        assert f"not computed for {task}" in problem.message
        offered = set(problem.remedy.removeprefix("there are: ").split(", "))
        assert offered >= fitting
        assert not offered & ((CLASSIFICATION | REGRESSION) - fitting)


def test_a_metric_without_a_task_fits_both() -> None:
    @METRICS.register("mine")
    class Mine:
        def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None: ...

        def compute(self) -> float:
            return 1.0

    for task in ("classification", "regression"):
        metrics = choose_metrics([Component("metric", "mine")], data(task))
        assert metrics["mine"]().compute() == 1.0
        assert choose_monitor("val/mine", data(task), metrics) == ("val/mine", False)


# -------------------------------------------------------------------- the monitor


@pytest.mark.parametrize(
    ("task", "monitor", "names", "expected"),
    [
        ("classification", "auto", ["accuracy", "f1"], ("val/accuracy", False)),
        ("classification", "auto", ["f1"], ("val/loss", True)),
        ("classification", "auto", [], ("val/loss", True)),
        ("classification", "val/loss", ["accuracy"], ("val/loss", True)),
        ("classification", "val/f1", ["accuracy", "f1"], ("val/f1", False)),
        ("regression", "auto", ["mse", "r2"], ("val/loss", True)),
        ("regression", "val/mse", ["mse", "r2"], ("val/mse", True)),
        ("regression", "val/r2", ["mse", "r2"], ("val/r2", False)),
    ],
)
def test_the_monitor_and_its_direction(
    task: str, monitor: str, names: list[str], expected: tuple[str, bool]
) -> None:
    given = data(task, 2)
    metrics = choose_metrics([Component("metric", name) for name in names], given)
    assert choose_monitor(monitor, given, metrics) == expected


@pytest.mark.parametrize(
    ("monitor", "reason"),
    [
        ("val/f1", "not computed, train.metrics chooses what is"),
        ("val/mae", "not computed for classification"),
        ("val/nothing", "not computed, train.metrics chooses what is"),
        ("val/per_class_accuracy", "several values, the monitor is one"),
    ],
)
def test_a_monitor_that_is_not_computed_is_refused(monitor: str, reason: str) -> None:
    names = ["accuracy", "per_class_accuracy"]
    metrics = choose_metrics([Component("metric", name) for name in names], data())
    with pytest.raises(ConfigError) as caught:
        choose_monitor(monitor, data(), metrics)
    (problem,) = caught.value.problems
    assert problem.message == f"train.monitor={monitor}: {reason}"
    assert problem.remedy == "there are: val/loss, val/accuracy"


# ----------------------------------------------------------------------- the screen


@pytest.mark.parametrize(("count", "shown"), [(12, 12), (13, 0)])
def test_up_to_twelve_values_a_class_are_shown(count: int, shown: int) -> None:
    single = {"step": 3, "val/loss": 0.5, "val/accuracy": 0.9}
    values = {**single, **{f"val/per_class_accuracy/{each}": 0.1 for each in range(count)}}
    kept = visible(values)
    assert {name: kept[name] for name in single} == single
    assert len(kept) == len(single) + shown


@pytest.mark.parametrize("width", [60, 200])
def test_the_closing_table_has_every_value_whole_at_any_width(width: int) -> None:
    import io

    from rich.console import Console

    stream = io.StringIO()
    display = Rich(stream, console=Console(file=stream, width=width, highlight=False))
    per_class = {f"per_class_accuracy/[{each}]": each / 10 for each in range(10)}
    rows = {
        label: {
            "step": 3,
            f"{split}/loss": 0.1234,
            **{f"{split}/{key}": value for key, value in per_class.items()},
        }
        for label, split in (("best", "val"), ("test", "test"))
    }
    display.closing(rows, [])
    text = stream.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    for key, value in {"loss": 0.1234, **per_class}.items():
        assert text.count(key) == 1
        assert text.count(number(value)) >= 2


# -------------------------------------------------------------------------- a run


def run_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    record = json.loads((folder / "run.json").read_text())
    return record, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_computes_what_was_chosen_and_is_ranked_by_it(trainctl: Any, tmp_path: Path) -> None:
    outcome = trainctl(
        "train.metrics=[accuracy,f1,{top_k_accuracy: {k: 3}},auroc,balanced_accuracy,per_class_accuracy]",
        "train.monitor=val/f1",
        "epochs=3",
        "threads=1",
        "hydra.run.dir=run",
    )
    assert outcome.code == 0, outcome.err
    record, lines = run_of(tmp_path / "run")
    names = ["loss", "accuracy", "f1", "top_k_accuracy", "auroc", "balanced_accuracy"]
    names += [f"per_class_accuracy/{digit}" for digit in range(10)]
    evaluations = [line for line in lines if "val/loss" in line]
    assert [set(line) for line in evaluations] == [
        {"step", "epoch", "samples_per_second", *(f"val/{name}" for name in names)}
    ] * 3
    assert set(lines[-1]) == {"step", "epoch", *(f"test/{name}" for name in names)}
    assert record["best"]["val/f1"] == max(line["val/f1"] for line in evaluations)
    assert set(record["best"]) == set(record["last"]) == {"step", "epoch", *(f"val/{name}" for name in names)}
    assert record["test"]["test/per_class_accuracy/7"] == lines[-1]["test/per_class_accuracy/7"]
    assert "val/per_class_accuracy/7" in outcome.out
    assert "top_k_accuracy" in (tmp_path / "run" / "config.yaml").read_text()
    last = evaluations[-1]
    per_class = [last[f"val/per_class_accuracy/{digit}"] for digit in range(10)]
    assert last["val/balanced_accuracy"] == pytest.approx(sum(per_class) / 10)
    assert last["val/top_k_accuracy"] >= last["val/accuracy"]


@pytest.mark.parametrize("mode", ["plain", "rich"])
def test_many_values_a_class_are_written_but_not_shown(trainctl: Any, tmp_path: Path, mode: str) -> None:
    outcome = trainctl(
        "dataset=synthetic",
        "dataset.outputs=20",
        "train.metrics=[accuracy,per_class_accuracy]",
        f"display.mode={mode}",
        "epochs=1",
        "threads=1",
        "hydra.run.dir=run",
    )
    assert outcome.code == 0, outcome.err
    record, lines = run_of(tmp_path / "run")
    assert "accuracy" in outcome.out
    assert "per_class_accuracy" not in outcome.out
    assert "val/per_class_accuracy/19" in record["best"]
    assert "test/per_class_accuracy/19" in lines[-1]


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("chosen", "monitor", "lower"),
    [("[mae]", "val/mae", True), ("[r2]", "val/r2", False), ("[]", "auto", True)],
)
def test_the_best_is_recorded_in_its_metrics_direction(
    trainctl: Any, tmp_path: Path, chosen: str, monitor: str, lower: bool
) -> None:
    outcome = trainctl(
        "dataset=synthetic",
        "dataset.task=regression",
        "loss=mse",
        f"train.metrics={chosen}",
        f"train.monitor={monitor}",
        "epochs=3",
        "threads=1",
        "hydra.run.dir=run",
    )
    assert outcome.code == 0, outcome.err
    record, lines = run_of(tmp_path / "run")
    name = "val/loss" if monitor == "auto" else monitor
    values = [line[name] for line in lines if name in line]
    assert len(set(values)) == 3
    assert record["best"][name] == (min if lower else max)(values)
    assert set(record["best"]) == {"step", "epoch", "val/loss", name}


# ----------------------------------------------------------------------------- ls


def test_ls_lists_the_metrics_with_a_line_each(trainctl: Any) -> None:
    for words in (["ls"], ["ls", "metric"]):
        lines = trainctl(*words).out.splitlines()
        assert "metric" in lines
        for name in METRICS.names():
            assert any(line.split()[:1] == [name] and len(line.split()) > 3 for line in lines)


def test_ls_shows_a_metrics_arguments_and_how_to_write_them(trainctl: Any) -> None:
    text = trainctl("ls", "metric=f1").out
    for part in ("train.metrics=[{f1: {average: macro}}]", "Harmonic mean", "one of macro, micro, weighted"):
        assert part in text
    assert "output_size" not in text
    assert "train.metrics=[auroc]" in trainctl("ls", "metric=auroc").out
    wrong = trainctl("ls", "metric=acuracy")
    assert wrong.code == 2
    assert "did you mean metric=accuracy?" in wrong.err


def test_what_ls_says_to_type_is_right(trainctl: Any) -> None:
    import yaml

    for name in METRICS.names():
        first = trainctl("ls", f"metric={name}").out.splitlines()[0]
        check(changed("train.metrics", yaml.safe_load(first.removeprefix("train.metrics="))))


@pytest.mark.parametrize(("words", "code"), [(["ls", "metric=f1"], 0), (["train.metrics=[f11]"], 2)])
def test_no_torch_is_needed_for_it(words: list[str], code: int, tmp_path: Path) -> None:
    assert not {"torch", "rich"} & modules_after(*words, cwd=tmp_path, code=code)
