"""``train.metrics``: what can be written, what is refused before anything is built, what a run computes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.config.test_config import base, changed, problems_of
from trainctl.components.metrics.accuracy import Accuracy
from trainctl.config.settings import Component
from trainctl.config.validation import check
from trainctl.data import Data, Split, Standardize
from trainctl.errors import ConfigError
from trainctl.registry import METRICS
from trainctl.training.display import number, short_name, visible
from trainctl.training.evaluation import choose_metrics, choose_monitor, class_names
from trainctl.training.hooks.best import Best, is_better
from trainctl.ui.live import Rich

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
    ("value", "message"),
    [
        ("f1", f"train.metrics=f1: {FORM}"),
        (None, f"train.metrics=null: {FORM}"),
        ({"f1": {}}, f"train.metrics={{f1: {{}}}}: {FORM}"),
        ([3], f"train.metrics=[3]: {FORM}"),
        ([["f1"]], f"train.metrics=[[f1]]: {FORM}"),
        ([{"f1": "macro"}], f"train.metrics=[{{f1: macro}}]: {FORM}"),
        ([{"f1": {}, "accuracy": {}}], f"train.metrics=[{{f1: {{}}, accuracy: {{}}}}]: {FORM}"),
        (["f11"], "train.metrics=f11: there is no such metric"),
        ([{"f11": {"average": "micro"}}], "train.metrics=f11: there is no such metric"),
        (["f1", {"f1": {"average": "micro"}}], "train.metrics=f1: listed twice"),
        ([{"f1": {"averag": "micro"}}], "train.metrics.f1.averag=micro: metric f1 has no argument 'averag'"),
        ([{"f1": {"name": "mae"}}], "train.metrics.f1.name=mae: metric f1 has no argument 'name'"),
        (
            [{"f1": {"average": "mean"}}],
            "train.metrics.f1.average=mean: must be one of macro, micro, weighted",
        ),
        (
            [{"top_k_accuracy": {"k": 0}}],
            "train.metrics.top_k_accuracy.k=0: must be a whole number of at least 1",
        ),
        (
            [{"top_k_accuracy": {"k": True}}],
            "train.metrics.top_k_accuracy.k=true: must be a whole number of at least 1",
        ),
        ([{"f1": {"output_size": 3}}], "train.metrics.f1.output_size=3: trainctl sets this itself"),
        (
            [{"per_class_accuracy": {"classes": []}}],
            "train.metrics.per_class_accuracy.classes=[]: trainctl sets this itself",
        ),
    ],
    ids=str,
)
def test_a_wrong_entry_is_one_problem(value: Any, message: str) -> None:
    (problem,) = problems_of(changed("train.metrics", value))
    assert problem.message == message


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        ("acuracy", "did you mean accuracy? there are: accuracy, auroc"),
        ("zzzzzz", "there are: accuracy, auroc"),
        ({"f1": {"averag": 1}}, "did you mean train.metrics.f1.average? metric f1 takes: average"),
        ({"auroc": {"k": 1}}, "metric auroc takes no arguments"),
        ({"top_k_accuracy": {"k": -1}}, "default: 5"),
    ],
)
def test_a_wrong_entry_is_told_what_to_type(entry: Any, remedy: str) -> None:
    (problem,) = problems_of(changed("train.metrics", [entry]))
    assert problem.remedy.startswith(remedy)


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
        assert set(problem.remedy.removeprefix("there are: ").split(", ")) == fitting


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


def test_a_k_that_says_nothing_about_this_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.metrics\.top_k_accuracy\.k=5: always 1 with 3 classes"):
        choose_metrics([Component("metric", "top_k_accuracy")], data(outputs=3))


def test_each_call_makes_a_new_metric_with_its_arguments() -> None:
    make: Any = choose_metrics([Component("metric", "top_k_accuracy", {"k": 3})], data())["top_k_accuracy"]
    assert make().k == 3
    assert make() is not make()


def test_the_classes_are_the_datasets_or_their_numbers() -> None:
    assert class_names(data(outputs=2, classes=("cat", "dog"))) == ("cat", "dog")
    assert class_names(data(outputs=3)) == ("0", "1", "2")
    # Two classes of one name would share one value.
    assert class_names(data(outputs=2, classes=("cat", "cat"))) == ("0", "1")
    assert class_names(data("regression", 2)) == ()


# -------------------------------------------------------------------- the monitor


@pytest.mark.parametrize(
    ("monitor", "names", "expected"),
    [
        ("auto", ["accuracy", "f1"], ("val/accuracy", False)),
        ("auto", ["f1"], ("val/loss", True)),
        ("auto", [], ("val/loss", True)),
        ("val/loss", ["accuracy"], ("val/loss", True)),
        *[
            (f"val/{name}", [name], (f"val/{name}", False))
            for name in sorted(CLASSIFICATION - {"per_class_accuracy"})
        ],
    ],
)
def test_the_monitor_and_its_direction(monitor: str, names: list[str], expected: tuple[str, bool]) -> None:
    metrics = choose_metrics([Component("metric", name) for name in names], data())
    assert choose_monitor(monitor, data(), metrics) == expected


@pytest.mark.parametrize(
    ("monitor", "lower"), [("auto", True), ("val/mse", True), ("val/mae", True), ("val/r2", False)]
)
def test_the_direction_of_a_regression(monitor: str, lower: bool) -> None:
    regression = data("regression", 2)
    assert choose_monitor(monitor, regression, choose_metrics(None, regression))[1] is lower


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


@pytest.mark.parametrize(("lower", "better", "worse"), [(True, 0.4, 0.6), (False, 0.6, 0.4)])
def test_better_is_lower_or_higher(lower: bool, better: float, worse: float) -> None:
    assert is_better(better, 0.5, lower_is_better=lower)
    assert not is_better(worse, 0.5, lower_is_better=lower)
    assert not is_better(0.5, 0.5, lower_is_better=lower)
    assert not is_better(better, 0.5, 0.2, lower_is_better=lower)
    assert is_better(worse, None, lower_is_better=lower)
    assert not is_better(float("nan"), None, lower_is_better=lower)


class FakeRun:
    """As much of a run as Best looks at."""

    def __init__(self) -> None:
        from trainctl.training.state import State

        self.state = State()


@pytest.mark.parametrize(("lower", "best"), [(True, 0.1), (False, 0.9)])
def test_the_best_is_recorded_in_its_direction(lower: bool, best: float) -> None:
    run: Any = FakeRun()
    hook = Best("val/x", patience=2, lower_is_better=lower)
    for value in (0.5, 0.1, 0.9):
        run.state.step += 1
        hook.evaluated(run, {"val/loss": 1.0, "val/x": value, "val/per_class_accuracy/a": 0.5})
    assert run.state.best["val/x"] == best
    assert run.state.best["val/per_class_accuracy/a"] == 0.5
    assert run.state.stop is None


# ----------------------------------------------------------------------- the screen


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (12, 12), (13, 0), (1000, 0)])
def test_up_to_twelve_values_a_class_are_shown(count: int, shown: int) -> None:
    single = {"step": 3, "val/loss": 0.5, "val/accuracy": 0.9}
    values = {**single, **{f"val/per_class_accuracy/{each}": 0.1 for each in range(count)}}
    kept = visible(values)
    assert {name: kept[name] for name in single} == single
    assert len(kept) == len(single) + shown


@pytest.mark.parametrize(
    ("name", "short"),
    [("step", "step"), ("val/loss", "loss"), ("val/per_class_accuracy/a/b", "per_class_accuracy/a/b")],
)
def test_a_short_name_is_the_name_without_its_split(name: str, short: str) -> None:
    assert short_name(name) == short


@pytest.mark.parametrize("width", [60, 80, 200])
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


def test_a_lower_monitored_metric_is_the_best(trainctl: Any, tmp_path: Path) -> None:
    outcome = trainctl(
        "dataset=synthetic",
        "dataset.task=regression",
        "loss=mse",
        "train.metrics=[mae]",
        "train.monitor=val/mae",
        "epochs=3",
        "threads=1",
        "hydra.run.dir=run",
    )
    assert outcome.code == 0, outcome.err
    record, lines = run_of(tmp_path / "run")
    values = [line["val/mae"] for line in lines if "val/mae" in line]
    assert record["best"]["val/mae"] == min(values) < values[0]


def test_without_metrics_a_run_is_ranked_by_its_loss(trainctl: Any, tmp_path: Path) -> None:
    assert trainctl("train.metrics=[]", "epochs=1", "threads=1", "hydra.run.dir=run").code == 0
    record, _ = run_of(tmp_path / "run")
    assert set(record["best"]) == {"step", "epoch", "val/loss"}


@pytest.mark.parametrize(
    ("word", "code", "message"),
    [
        ("train.metrics=[acuracy]", 2, "did you mean accuracy?"),
        (
            "train.metrics=[mae]",
            2,
            "train.metrics=mae: not computed for classification, which dataset digits is",
        ),
        ("train.metrics=[{top_k_accuracy: {k: 10}}]", 2, "always 1 with 10 classes"),
        ("train.monitor=val/f1", 2, "train.metrics chooses what is"),
        ("train.metrics=[{f1: {_target_: os.system}}]", 3, "refused"),
    ],
)
def test_what_does_not_fit_stops_before_training(trainctl: Any, word: str, code: int, message: str) -> None:
    outcome = trainctl(word, "epochs=1", "threads=1")
    assert outcome.code == code
    assert message in outcome.err
    assert not list(Path.cwd().glob("**/step-*"))


def test_a_sweep_over_metrics_works(trainctl: Any, tmp_path: Path) -> None:
    outcome = trainctl(
        "-m",
        "train.metrics=[f1],[auroc]",
        "epochs=1",
        "threads=1",
        "hydra.sweep.dir=sweep",
        "display.mode=none",
    )
    assert outcome.code == 0, outcome.err
    assert re.search(r"\[f1\]\s+0?\S+", outcome.out), outcome.out
    assert "[auroc]" in outcome.out


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


@pytest.mark.parametrize("words", [["ls"], ["ls", "metric=f1"], ["train.metrics=[f11]"]], ids=" ".join)
def test_no_torch_is_needed_for_it(words: list[str]) -> None:
    program = (
        "import sys; from trainctl.cli.main import main; main(sys.argv[1:]);"
        "sys.exit(99 if {'torch', 'rich'} & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
