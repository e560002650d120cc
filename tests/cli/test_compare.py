"""``trainctl compare``: runs that were really trained, ranked; wrong words; what it writes."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
from pathlib import Path

import pytest

from tests.helpers.display import Terminal
from tests.helpers.files import put
from tests.helpers.program import modules_after, run
from tests.helpers.runs import record
from trainctl.analysis.ranking import compare
from trainctl.cli.main import main
from trainctl.ui.compare import show
from trainctl.ui.compare_tables import others

RATES = ("1e-2", "1e-3", "1e-4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three learning rates with three seeds each, and one that fails."""
    folder = tmp_path_factory.mktemp("compare") / "runs"
    fast = ("model.hidden=[16]", "epochs=2", "threads=1", "display.mode=none", "pictures=false")
    for rate in RATES:
        for seed in (1, 2, 3):
            words = (f"lr={rate}", f"seed={seed}", f"hydra.run.dir={folder}/{rate}-{seed}")
            assert main([*words, *fast]) == 0
    assert main(["lr=1e30", "optim=sgd", f"hydra.run.dir={folder}/bad", *fast]) == 6
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def test_the_table_is_what_the_runs_say(trainctl, runs: Path) -> None:
    outcome = trainctl("compare", "runs")
    assert outcome.code == 0, outcome.err
    means = {}
    for rate in RATES:
        values = [record(runs / f"{rate}-{seed}")["best"]["val/accuracy"] for seed in (1, 2, 3)]
        means[rate] = statistics.mean(values), statistics.stdev(values)
    best = sorted(RATES, key=lambda rate: -means[rate][0])
    lines = outcome.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.split()[:2] == ["#", "lr"])
    for position, rate in enumerate(best, start=1):
        words = lines[at + position].split()
        mean, deviation = means[rate]
        assert words[0] == str(position)
        assert float(words[1]) == float(rate)
        assert words[2:6] == [f"{mean:.4f}", "±", f"{deviation:.4f}", "3"]
    assert "Welch's t-test: p = " in outcome.out
    (failed,) = [line for line in lines if line.strip().startswith("failed")]
    assert "6" in failed.split()
    assert "the loss is" in failed
    assert "runs/bad" in failed


def test_runs_that_are_not_ranked_have_a_name_and_fit_the_terminal(trainctl, tmp_path: Path) -> None:
    put(tmp_path / "a.csv", "x,y\n1,2\n3,4\n5,6\n")
    for name in ("one", "two"):
        words = ("dataset=csv", "dataset.path=a.csv", "dataset.target=bouhgt", f"hydra.run.dir=runs/{name}")
        assert trainctl(*words, "display.mode=none").code == 2
    listed = others(compare(["runs"]), 75)
    assert [row[2] for row in listed.rows] == ["one", "two"]
    assert all("bouhgt" in row[-1] for row in listed.rows)
    assert all(len(line) <= 75 for line in listed.lines())
    assert len(others(compare(["runs"])).rows[0][-1]) > len(listed.rows[0][-1])
    # On the screen several of them are one line, unless they are asked for.
    lines = trainctl("compare", "runs").out.splitlines()
    (line,) = [line for line in lines if "failed" in line]
    assert line.startswith("2 runs failed: dataset.target=bouhgt: ")
    assert line.endswith(" (×2). --failed lists them")
    lines = trainctl("compare", "runs", "--failed").out.splitlines()
    assert sum(line.startswith("failed") for line in map(str.strip, lines)) == 2


def test_a_run_that_failed_at_once_says_why_and_how_to_begin_it_again(trainctl, tmp_path: Path) -> None:
    put(tmp_path / "a.csv", "x,y\n" + "1,2\n3,4\n5,6\n" * 20)
    words = ("dataset=csv", "dataset.path=a.csv", "dataset.target=z", "display.mode=none")
    assert trainctl(*words, "hydra.run.dir=run").code == 2
    outcome = trainctl("resume", "run")
    assert outcome.code == 4
    assert "the run failed before it saved the first one: dataset.target=z" in outcome.err
    assert "correct that and start it again: trainctl dataset=csv dataset.path=a.csv" in outcome.err
    outcome = trainctl("resume", "run", "dataset.target=y", "lr=0.1")
    assert outcome.code == 4
    command = outcome.err.partition("start it again: trainctl ")[2].split()
    assert command == [word for word in words if "target" not in word] + [
        "hydra.run.dir=run", "dataset.target=y", "lr=0.1",
    ]  # fmt: skip
    assert trainctl(*command[:-3], *command[-2:], "epochs=1").code == 0


def test_nothing_is_written_where_the_runs_are(trainctl, runs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [runs, *runs.rglob("*")]}
    assert trainctl("compare", "runs", "--html", "page.html").code == 0
    assert {path: path.stat().st_mtime_ns for path in [runs, *runs.rglob("*")]} == before


def test_json_and_csv_say_the_same_as_the_runs(trainctl, runs: Path) -> None:
    outcome = trainctl("compare", "runs", "--json", "-")
    assert outcome.code == 0
    content = json.loads(outcome.out)
    (group,) = content["groups"]
    assert group["monitor"] == {"name": "val/accuracy", "lower_is_better": False}
    assert [row["rank"] for row in group["rows"]] == [1, 2, 3]
    for row in group["rows"]:
        assert {each["seed"] for each in row["runs"]} == {1, 2, 3}
        for each in row["runs"]:
            stored = record(Path(each["directory"]))
            assert each["value"] == stored["best"]["val/accuracy"]
            assert each["parameters"] == stored["parameters"]
        assert row["mean"] == pytest.approx(statistics.mean(each["value"] for each in row["runs"]))
        assert row["training_seconds"] > 0
    (bad,) = content["others"]
    assert (bad["state"], bad["exit_code"], bad["settings"]["optim.lr"]) == ("failed", 6, 1e30)

    outcome = trainctl("compare", "runs", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert [row["rank"] for row in rows] == ["1", "2", "3", ""]
    for row, expected in zip(rows, group["rows"], strict=False):
        assert float(row["optim.lr"]) == expected["settings"]["optim.lr"]
        assert float(row["mean"]) == expected["mean"]
        assert float(row["std"]) == expected["std"]
        assert row["runs"].split() == [each["directory"] for each in expected["runs"]]
    assert rows[-1]["state"] == "failed"
    assert "the loss is" in rows[-1]["reason"]


def test_what_is_not_finite_is_null_in_json(trainctl, runs: Path) -> None:
    values = record(runs / "1e-2-1")
    values["best"] = None
    values["last"]["val/accuracy"] = "nan"
    (runs / "1e-2-1/run.json").write_text(json.dumps(values))
    content = json.loads(trainctl("compare", "runs", "--json", "-").out)
    last = content["groups"][0]["rows"][-1]
    assert (last["settings"]["optim.lr"], last["mean"], last["rank"]) == (0.01, None, None)
    assert "not finite" in trainctl("compare", "runs").out


def test_the_files_are_written_and_named(trainctl, runs: Path) -> None:
    outcome = trainctl("compare", "runs", "--csv=t.csv", "--json", "t.json", "--html", "t.html")
    assert outcome.code == 0
    for kind in ("csv", "json", "html"):
        assert f"{kind}: t.{kind}" in outcome.out
        assert Path(f"t.{kind}").stat().st_size > 500


def test_runs_by_name_by_last_and_one_by_one(trainctl, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "1e-2-1", tmp_path / "outputs/a")
    values = record(tmp_path / "outputs/a") | {"name": "mine"}
    (tmp_path / "outputs/a/run.json").write_text(json.dumps(values))
    (tmp_path / "outputs/latest").symlink_to("a")
    outcome = trainctl("compare", "mine", "last", "runs/1e-3-1")
    assert outcome.code == 0, outcome.err
    assert "2 settings" in outcome.out
    assert "both have only one: use seed=1,2,3" in outcome.out


class TestCurves:
    def test_a_pipe_has_them_when_asked_with_a_letter_a_setting(self, trainctl, runs: Path) -> None:
        assert "by step" not in trainctl("compare", "runs").out
        out = trainctl("compare", "runs", "--curves").out
        assert "train/loss, smoothed, by step" in out
        assert "val/accuracy, by step" in out
        drawn = "".join(line.partition("│")[2] for line in out.splitlines() if "│" in line)
        assert set("abc") <= set(drawn)
        for letter, rate in zip("abc", compare(["runs"]).groups[0].rows, strict=True):
            assert f"  {letter} {rate.rank}  lr={rate.settings['optim.lr']}" in out

    def test_the_ends_of_the_axes_are_the_data_s(self, trainctl, runs: Path) -> None:
        out = trainctl("compare", "runs/1e-2-1", "--curves").out
        picture = out[out.index("val/accuracy, by step") :].splitlines()
        lines = (runs / "1e-2-1/metrics.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        values = [line["val/accuracy"] for line in found if "val/accuracy" in line]
        axis = [line for line in picture if "│" in line]
        assert float(axis[0].split("│")[0]) == pytest.approx(max(values), abs=1e-4)
        assert float(axis[-1].split("│")[0]) == pytest.approx(min(values), abs=1e-4)
        # It rises: from the lower left to the upper right.
        assert axis[-1].split("│")[1].startswith("a")
        assert axis[0].rstrip().endswith("a")

    def test_a_terminal_has_them_in_colours_and_no_color_in_letters(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "100")
        coloured, plain, none = Terminal(), Terminal(), Terminal()
        comparison = compare(["runs"])
        show(comparison, coloured)
        assert any(0x2800 < ord(each) < 0x2900 for each in coloured.getvalue())
        assert "\x1b[32m" in coloured.getvalue()
        show(comparison, none, curves=False)
        assert "by step" not in none.getvalue()
        monkeypatch.setenv("NO_COLOR", "1")
        show(comparison, plain)
        assert "\x1b[3" not in plain.getvalue()
        assert "  a 1  lr=" in plain.getvalue()
        assert all(len(line) <= 100 for line in plain.getvalue().splitlines() if "\x1b" not in line)


def test_a_name_cannot_command_the_terminal(trainctl, runs: Path) -> None:
    evil = "\x1b]0;owned\x07[bold]x"
    for name in ("1e-2-1", "bad"):
        values = record(runs / name) | {"name": evil, "reason": evil}
        (runs / name / "run.json").write_text(json.dumps(values))
    outcome = trainctl("compare", "runs", "--curves")
    assert outcome.code == 0
    assert "\x1b" not in outcome.out
    assert "\x07" not in outcome.out
    assert "[bold]x" in outcome.out


@pytest.mark.parametrize(
    ("words", "code", "message", "remedy"),
    [
        ((), 2, "compare needs a DIR", "trainctl compare DIR…"),
        (("nowhere",), 2, "nowhere: no such directory", ""),
        (("empty",), 2, "empty: there is no run here", "give run directories"),
        (("file",), 2, "file: is a file", "give the directory"),
        (("lr=1",), 2, "lr=1: compare takes no KEY=VALUE words", "trainctl compare DIR…"),
        (("empty", "--hmtl", "x"), 2, "--hmtl: compare has no such option", "did you mean --html?"),
        (("empty", "--csv"), 2, "--csv: needs a value", "--csv FILE"),
        (("empty", "--csv", "--json"), 2, "--csv: needs a value", "--csv FILE"),
        (("empty", "--csv", "empty"), 2, "--csv empty: is a folder", "name a file"),
        (("empty", "--csv", "no/t.csv"), 5, "there is no folder no", "make it"),
        (("empty", "--csv", "-", "--json", "-"), 2, "both go to standard output", "name a file"),
        (("unsafe",), 3, "model._target_=os.system: refused", "choose with GROUP=OPTION"),
    ],
)
def test_wrong_words(
    words: tuple[str, ...], code: int, message: str, remedy: str, trainctl, tmp_path: Path, trained: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    shutil.copytree(trained / "bad", tmp_path / "unsafe")
    (tmp_path / "unsafe/config.yaml").write_text("model: {_target_: os.system}\n")
    outcome = trainctl("compare", *words)
    assert outcome.code == code
    assert message in outcome.err
    assert remedy in outcome.err
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) <= 2


def test_only_runs_that_cannot_be_ranked_say_so(trainctl, runs: Path) -> None:
    outcome = trainctl("compare", "runs/bad")
    assert outcome.code == 0
    assert "nothing to rank" in outcome.out
    assert "the loss is" in outcome.out


def test_a_file_that_cannot_be_written(trainctl, runs: Path) -> None:
    outcome = trainctl("compare", "runs", "--csv", "/proc/nothing.csv")
    assert outcome.code == 5
    assert "cannot be written" in outcome.err


def test_without_torch_from_the_installed_program(runs: Path, tmp_path: Path) -> None:
    done = run("compare", "runs", "--html", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 settings, 9 runs" in done.stdout
    words = ("compare", "runs", "--curves", "--html", "p.html", "--csv", "t.csv", "--json", "t.json")
    assert not {"torch", "numpy", "scipy", "matplotlib"} & modules_after(*words, cwd=tmp_path)
