"""Search: what may be chosen, what is remembered across kills, hopeless jobs stopped, trials told once."""

from __future__ import annotations

import json
import math
import shlex
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study as OptunaStudy
from optuna.study import load_study
from optuna.trial import TrialState

from tests.helpers.files import put
from tests.helpers.program import start, wait_for
from tests.helpers.runs import record
from trainctl.config.composer import Composer
from trainctl.errors import ConfigError
from trainctl.sweep.ledger import Ledger
from trainctl.sweep.space import Choice, Interval, Space, parse_space
from trainctl.sweep.study import Course, Study, is_hopeless

FAST = ("epochs=1", "threads=1", "display.mode=none", "hydra/launcher=basic", "hydra.sweep.dir=s")
SEARCH = ("-m", "hydra/sweeper=optuna")
LR = "lr=tag(log,interval(1e-4,1e-1))"
SPACE = Space((None, None), {"lr": Interval(1e-4, 1e-1, log=True), "optim": Choice(("sgd", "adam"))})


def stored(directory: Path) -> OptunaStudy:
    """The search as optuna's own tools read it."""
    storage = JournalStorage(JournalFileBackend(str(directory / "search.jsonl")))
    return load_study(study_name="search", storage=storage)


def states(directory: Path) -> list[str]:
    return [entry.row.state for entry in Ledger(directory).rows()]


# ------------------------------------------------------------------- what may be chosen


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.mark.parametrize(
    ("word", "domain"),
    [
        ("a=interval(1,8)", Interval(1.0, 8.0)),
        ("a=int(interval(1,8))", Interval(1, 8)),
        ("a=tag(log,interval(1e-4,1e-1))", Interval(1e-4, 1e-1, log=True)),
        ("a=tag(log,int(interval(1,512)))", Interval(1, 512, log=True)),
        ("a=choice(x,y,x)", Choice(("x", "y"))),
        ("a=1e-2,1e-3", Choice(("0.01", "0.001"))),
        ("a=[64],[64,32]", Choice(("[64]", "[64,32]"))),
        ("a=range(16,65,16)", Interval(16, 64, step=16)),
        ("a=range(9,0,-3)", Interval(3, 9, step=3)),
        ("a=range(0.1,0.6,0.2)", Interval(0.1, 0.5, step=0.2)),
        ("a=shuffle(range(1,3))", None),
    ],
)
def test_the_syntax_of_hydras_sweepers(composer: Composer, word: str, domain: object) -> None:
    space = parse_space(composer.parse(["seed=1", word]))
    assert space.words == ("seed=1", None)
    found = space.domains["a"]
    if domain is None:
        assert isinstance(found, Choice)
        assert sorted(found.values) == ["1", "2"]
    else:
        assert found == domain
        assert type(getattr(found, "low", 0)) is type(getattr(domain, "low", 0))


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (
            [LR, "seed=1", "batch_size=interval(8,128)"],
            ["whole numbers are train.batch_size='int(interval(8,128))'"],
        ),
        (
            [
                "lr=interval(1e-1,1e-4)",
                "train.clip_norm=tag(log,interval(0,1))",
                "train.ema=tag(lgo,interval(0.5,0.9))",
                "batch_size=range(5,1)",
            ],
            [
                "lr=interval(1e-1,1e-4): the interval is empty",
                "begins above 0",
                "there is: log",
                "the range is empty",
            ],
        ),
        (["lr=interval(1e-4,1"], ["optim.lr=interval(1e-4,1: cannot be parsed"]),
        (
            ["lr=interval(-1,1)", "optim=adm,adam"],
            ["optim.lr=-1.0: must be a number greater than 0", "did you mean optim=adam?"],
        ),
        (["seed=1"], ["there is nothing to search over"]),
        ([LR, "hydra.sweeper.trails=3"], ["did you mean hydra.sweeper.trials?"]),
        (
            [LR, "hydra.sweeper.trials=0", "hydra.sweeper.sampler=tpi"],
            [
                "hydra.sweeper.trials=0: must be a whole number of at least 1",
                "must be one of tpe, random, grid",
            ],
        ),
        ([LR, "hydra.sweeper.sampler=grid"], ["optim.lr is an interval with endless values"]),
        ([LR, "name=x"], ["several jobs would have this name"]),
        ([LR, "sweep.jobs=1,2"], ["take one value for the whole sweep"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    trainctl, tmp_path: Path, words: list[str], messages: list[str]
) -> None:
    outcome = trainctl(*SEARCH, *words, "hydra.sweep.dir=s")
    assert outcome.code == 2
    for message in messages:
        assert message in outcome.err
    assert not (tmp_path / "s").exists()


def test_an_interval_without_a_search_names_the_sweeper(trainctl) -> None:
    outcome = trainctl("-m", LR)
    assert outcome.code == 2
    assert "hydra/sweeper=optuna" in outcome.err


def test_a_search_cannot_be_planned(trainctl) -> None:
    outcome = trainctl("plan", *SEARCH, LR)
    assert outcome.code == 2
    assert "are not known before it runs" in outcome.err


def test_without_optuna_the_extra_is_named(trainctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainctl.sweep.search_settings.find_spec", lambda name: None)
    outcome = trainctl(*SEARCH, LR)
    assert outcome.code == 2
    assert "pip install 'trainctl[search]'" in outcome.err


def test_numbers_are_short_unless_the_interval_is_narrow() -> None:
    assert Interval(1e-4, 1e-1).text(0.012345678) == "0.0123457"
    assert Interval(8, 128).text(32) == "32"
    assert Interval(1.0, 1.00001).text(1.0000012345) == "1.0000012345"
    assert float(Interval(1e-5, 0.123456789).text(0.123456789)) <= 0.123456789


def test_corners_have_every_choice_and_both_ends() -> None:
    corners = list(SPACE.corners())
    assert ["lr=0.0001", "optim=sgd"] in corners
    assert {word for corner in corners for word in corner} == {
        "lr=0.0001",
        "lr=0.1",
        "optim=sgd",
        "optim=adam",
    }
    assert SPACE.size == math.inf
    assert Space((None,), {"a": Interval(3, 9, step=3)}).size == 3


# ------------------------------------------------------------------- what is remembered


def test_a_study_that_is_opened_again_goes_on_as_if_it_had_stayed_open(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    study = Study(tmp_path / "a", SPACE, "tpe", seed=3)
    for _ in range(14):
        number, values = study.ask()
        study.tell(number, values["lr"])
    wanted = [study.ask() for _ in range(3)]
    for _ in range(14):
        again = Study(tmp_path / "b", SPACE, "tpe", seed=3)
        number, values = again.ask()
        again.tell(number, values["lr"])
        again.close()
    again = Study(tmp_path / "b", SPACE, "tpe", seed=3)
    assert [again.ask() for _ in range(3)] == wanted
    again.close()
    assert Study(tmp_path / "b", SPACE, "tpe", seed=3).open() == dict(wanted)
    drawn = [trial.params["lr"] for trial in stored(tmp_path / "b").trials]
    assert len(set(drawn)) == 17


def test_at_any_length_of_its_file_a_study_can_go_on(tmp_path: Path) -> None:
    study = Study(tmp_path, SPACE, "random", seed=0)
    first = study.ask()
    study.tell(first[0], 0.5, {1: 0.7, 2: 0.5})
    second = study.ask()
    study.close()
    whole = (tmp_path / "search.jsonl").read_bytes()
    for length in range(whole.index(b"\n"), len(whole), 23):
        (tmp_path / "search.jsonl").write_bytes(whole[:length])
        study = Study(tmp_path, SPACE, "random", seed=0)
        left = study.open()
        # What was asked for in part is asked for to the end; what was chosen already stays.
        assert set(left) <= {0, 1}
        for number, values in left.items():
            assert values["lr"] == (first, second)[number][1]["lr"]
            assert values["optim"] in ("sgd", "adam")
            study.tell(number, 0.5)
        assert study.open() == {}
        assert study.ask()[0] == study.count() - 1
        study.close()
        assert (tmp_path / "search.jsonl").read_bytes().endswith(b"\n")


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "search.jsonl").write_bytes(b"nonsense\n")
    with pytest.raises(ConfigError, match=r"search\.jsonl is damaged"):
        Study(tmp_path, SPACE, "random", seed=0)


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    space = Space((None, None), {"a": Interval(1, 5, step=2), "b": Choice(("x", "y"))})
    study = Study(tmp_path, space, "grid", seed=0)
    asked = [tuple(study.ask()[1].values()) for _ in range(6)]
    assert asked == [(1, "x"), (1, "y"), (3, "x"), (3, "y"), (5, "x"), (5, "y")]


def test_the_search_learns(tmp_path: Path) -> None:
    """TPE's later trials are nearer to the best than its first; the sign of what is told matters."""
    space = Space((None,), {"x": Interval(0.0, 1.0)})
    study = Study(tmp_path, space, "tpe", seed=1)
    distances = []
    for _ in range(40):
        number, values = study.ask()
        distances.append(abs(values["x"] - 0.8))
        study.tell(number, distances[-1])
    assert sum(distances[-10:]) < 0.4 * sum(distances[:10])


# ------------------------------------------------------------------- hopeless jobs

GOOD = [Course(number, {1: 0.5, 2: 0.3 + number / 100, 3: 0.2}, finished=True) for number in range(6)]


@pytest.mark.parametrize(
    ("own", "hopeless"),
    [({1: 0.9}, True), ({1: 0.4}, False), ({1: 0.4, 2: 0.45}, True), ({1: 0.9, 2: 0.1}, False)],
)
def test_worse_than_the_median_at_the_same_epoch_is_hopeless(own: dict[int, float], hopeless: bool) -> None:
    assert is_hopeless("median", 3, GOOD, 6, own) is hopeless


def test_too_few_others_prove_nothing() -> None:
    assert not is_hopeless("median", 3, GOOD[:4], 6, {1: 0.9})
    unfinished = [Course(each.number, each.values, finished=False) for each in GOOD]
    assert not is_hopeless("median", 3, unfinished, 6, {1: 0.9})


def test_hyperband_stops_the_worst_and_lets_the_best_go_on() -> None:
    others = [Course(number, {1: 0.5, 2: 0.4, 3: 0.3}, finished=True) for number in range(30)]
    assert any(is_hopeless("hyperband", 27, others, number, {1: 0.9}) for number in range(30, 36))
    assert not any(is_hopeless("hyperband", 27, others, number, {1: 0.1}) for number in range(30, 36))


@pytest.mark.slow
def test_a_hopeless_job_is_stopped_and_everything_says_so(trainctl, tmp_path: Path) -> None:
    words = ("lr=8e-3,9e-3,1e-2,1.1e-2,1.2e-2,1e-7", "epochs=3", *FAST[1:])
    settings = ("hydra.sweeper.sampler=grid", "hydra.sweeper.pruner=median", "hydra.sweeper.batch=5")
    outcome = trainctl(*SEARCH, *words, *settings)
    assert outcome.code == 0, outcome.err
    last = record(tmp_path / "s/5")
    assert (last["status"], last["last"]["epoch"]) == ("done", 1)
    assert last["reason"].startswith("pruned at epoch 1: val/accuracy 0.")
    assert "pruned at epoch 1" in (tmp_path / "s/5/train.log").read_text()
    assert "1 run not trained to the end" in outcome.out
    assert "5 (pruned at epoch 1)" in outcome.out
    assert [record(tmp_path / f"s/{number}")["last"]["epoch"] for number in range(5)] == [3] * 5
    trials = stored(tmp_path / "s").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]
    assert list(trials[0].intermediate_values) == [1, 2, 3]


# ------------------------------------------------------------------- from end to end


@pytest.mark.slow
def test_each_trial_is_a_job_and_is_told_what_the_job_reached(trainctl, tmp_path: Path) -> None:
    words = (*SEARCH, LR, "batch_size=int(interval(32,64))", "optim=sgd,adam", *FAST)
    outcome = trainctl(*words, "hydra.sweeper.trials=3", "hydra.sweeper.batch=2")
    assert outcome.code == 0, outcome.err
    assert states(tmp_path / "s") == ["done"] * 3
    trials = stored(tmp_path / "s").trials
    reached = []
    for trial, job in zip(trials, Ledger(tmp_path / "s").jobs(), strict=True):
        values = record(tmp_path / "s" / str(job.number))
        reached.append(values["best"]["val/accuracy"])
        assert (trial.state, trial.value) == (TrialState.COMPLETE, -reached[-1])
        assert trial.user_attrs == {"job": job.number, "val/accuracy": reached[-1]}
        assert f"train.batch_size={trial.params['train.batch_size']}" in job.words
        assert 32 <= trial.params["train.batch_size"] <= 64
    best = reached.index(max(reached))
    assert f"best: job {best}, val/accuracy {max(reached):.4f}" in outcome.out
    # The line to type is the run.
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("  trainctl lr=")]
    assert trainctl(*shlex.split(line)[1:], "hydra.run.dir=again").code == 0
    assert record(tmp_path / "again")["best"] == record(tmp_path / f"s/{best}")["best"]

    before = {path: path.read_bytes() for path in (tmp_path / "s").glob("*/run.json")}
    for again in ((*words, "hydra.sweeper.trials=3"), ("resume", "s")):
        outcome = trainctl(*again)
        assert (outcome.code, len(stored(tmp_path / "s").trials)) == (0, 3), outcome.err
        assert "3 done already" in outcome.out
    assert trainctl(*words, "hydra.sweeper.trials=4").code == 0
    assert states(tmp_path / "s") == ["done"] * 4
    assert {path: path.read_bytes() for path in before} == before

    other = trainctl(*SEARCH, "lr=interval(1e-3,1e-1)", *FAST)
    assert other.code == 7
    assert "holds another sweep" in other.err


@pytest.mark.slow
def test_a_trial_that_diverges_is_told_as_failed_and_the_same_settings_run_once(
    trainctl, tmp_path: Path
) -> None:
    words = ("optim=sgd", "lr=1e30,1e-1,1e-2", "hydra.sweeper.sampler=random", "hydra.sweeper.trials=9")
    outcome = trainctl(*SEARCH, *words, "hydra.sweeper.batch=3", *FAST)
    assert outcome.code == 1
    assert sorted(states(tmp_path / "s")) == ["done", "done", "failed"]
    assert "not trained again" in outcome.out
    assert "every combination was tried: 3" in outcome.out
    trials = stored(tmp_path / "s").trials
    assert 3 < len(trials) <= 9
    for trial in trials:
        assert trial.state == (
            TrialState.FAIL if trial.params["++optim.lr"] == "1e+30" else TrialState.COMPLETE
        )
    assert "the loss is" in next(trial for trial in trials if trial.value is None).user_attrs["reason"]
    attempts = [entry.row.attempts for entry in Ledger(tmp_path / "s").rows()]
    outcome = trainctl("resume", "s")
    assert outcome.code == 1
    assert "(2 done already, 1 diverged)" in outcome.out
    assert "resume with" not in outcome.out
    assert [entry.row.attempts for entry in Ledger(tmp_path / "s").rows()] == attempts


@pytest.mark.slow
def test_a_search_in_which_nothing_can_be_learned_stops_early(trainctl, tmp_path: Path) -> None:
    outcome = trainctl(*SEARCH, LR, "dataset=mnist", "dataset.root=nowhere", *FAST)
    assert outcome.code == 2
    assert "3 jobs of the search failed and none succeeded: dataset=mnist" in outcome.err
    assert "trainctl resume s" in outcome.err
    # They stay open: once the data is there, they are trained.
    assert [trial.state for trial in stored(tmp_path / "s").trials] == [TrialState.RUNNING] * 3


@pytest.mark.slow
def test_a_search_whose_configs_have_changed_is_not_carried_on(trainctl, tmp_path: Path) -> None:
    words = (*SEARCH, LR, "hydra.sweeper.trials=1", *FAST)
    assert trainctl(*words).code == 0
    put(tmp_path / "conf/local.yaml", "# @package _global_\ntrain:\n  clip_norm: 1.0\n")
    for again in (words, ("resume", "s")):
        outcome = trainctl(*again)
        assert outcome.code == 2
        assert "its configs have changed" in outcome.err


@pytest.mark.slow
def test_a_search_with_plugins_is_carried_on_where_they_are(trainctl, tmp_path: Path, monkeypatch) -> None:
    plugin = (
        "from torch import nn\n"
        "from trainctl.registry import MODELS\n"
        "@MODELS.register('mine')\n"
        "def mine(input_shape: tuple[int, ...], output_size: int):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    (tmp_path / "mine.py").write_text(plugin)
    words = ("plugins=./mine.py", "model.name=mine", "~model.hidden", "hydra.sweeper.trials=1")
    outcome = trainctl(*SEARCH, LR, *words, *FAST)
    assert outcome.code == 0, outcome.out + outcome.err
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.py").write_text(plugin + "open('touched', 'w')\n")
    monkeypatch.chdir(other)
    for trust in ((), ("--trust-plugins",)):
        outcome = trainctl("resume", str(tmp_path / "s"), *trust)
        assert outcome.code == 2
        assert f"cd {tmp_path}" in outcome.err
    assert not (other / "touched").exists()


@pytest.mark.slow
def test_the_space_can_come_from_a_file(trainctl, tmp_path: Path) -> None:
    put(
        tmp_path / "conf/local.yaml",
        '# @package _global_\nhydra:\n  sweeper:\n    params: {optim.lr: "choice(1e-2,1e-3)", seed: 1}\n',
    )
    outcome = trainctl(*SEARCH, "seed=2", "hydra.sweeper.sampler=grid", *FAST)
    assert outcome.code == 0, outcome.err
    words = [set(job.words) for job in Ledger(tmp_path / "s").jobs()]
    assert [{"++optim.lr=0.01", "seed=2"} <= words[0], {"++optim.lr=0.001", "seed=2"} <= words[1]] == [
        True
    ] * 2
    assert len(words) == 2


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_tells_each_trial_once(trainctl, tmp_path: Path) -> None:
    trials = 8
    words = (*SEARCH, LR, "optim=sgd,adam", f"hydra.sweeper.trials={trials}", "epochs=4", "threads=1")
    words = (*words, "checkpoint.every_steps=5", "hydra.sweep.dir=s")
    for moment in (0.0, 1.0, 2.5, 0.3, 4.0, 1.7, 0.1, 3.1, 0.6, 2.0):
        process = start(*words, cwd=tmp_path)
        wait_for(lambda: list(tmp_path.glob("s/*/checkpoints/step-*")))
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    outcome = trainctl("resume", "s")
    assert outcome.code == 0, outcome.err
    found = stored(tmp_path / "s").trials
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * trials
    events = [json.loads(line) for line in (tmp_path / "s/search.jsonl").read_text().splitlines()]
    told = Counter(event["trial_id"] for event in events if event["op_code"] == 6 and event["state"] == 1)
    assert set(told.values()) == {1}
    assert states(tmp_path / "s") == ["done"] * trials
    assert len(found) == len(list(tmp_path.glob("s/[0-9]"))) == trials
    for trial in found:
        lines = (tmp_path / f"s/{trial.user_attrs['job']}/metrics.jsonl").read_text().splitlines()
        steps = [values["step"] for values in map(json.loads, lines) if "train/loss" in values]
        assert steps == list(range(1, max(steps) + 1))
