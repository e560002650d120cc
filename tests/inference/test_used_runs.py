"""The verbs that use a run, on run directories in every state."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml

from tests.analysis.test_verify import plant
from tests.conftest import Outcome
from tests.helpers.runs import everything
from tests.helpers.trained import QUICK
from trainctl import load
from trainctl.analysis.discovery import gather
from trainctl.checkpoint import retention
from trainctl.checkpoint.format import CheckpointData, read_checkpoint
from trainctl.cli.main import main
from trainctl.components.datasets.digits import digits
from trainctl.errors import TrainctlError
from trainctl.runs.directory import lock
from trainctl.runs.record import read_record

VERBS = {
    "eval": (),
    "predict": ("--input=new.npz", "--output=out.csv"),
    "export": ("--format=safetensors", "--output=out.safetensors", "--force"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints of each of its four steps; the best one is not the last."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    words = ("train.max_steps=4", "batch_size=320", "checkpoint.every_steps=1", "checkpoint.keep_last=9")
    assert main([*words, "model.hidden=[8]", *QUICK, f"hydra.run.dir={directory}"]) == 0
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    numpy.savez(tmp_path / "new.npz", x=digits().test.inputs[:5].numpy())
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(params=VERBS)
def use(request: pytest.FixtureRequest, trainctl) -> Callable[..., Any]:
    verb = request.param
    return lambda run, *words: trainctl(verb, run, *VERBS[verb], *words)


def change_record(run: Path, **values: Any) -> None:
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def damage(run: Path, step: int, file: str = "model.safetensors") -> None:
    path = run / "checkpoints" / f"step-{step:08d}" / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def missing(run: Path) -> None:
    shutil.rmtree(run)


def empty(run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()


def foreign(run: Path) -> None:
    empty(run)
    (run / "model.pt").write_bytes(pickle.dumps({}))


def record_damaged(run: Path) -> None:
    (run / "run.json").write_text("{")


def config_damaged(run: Path) -> None:
    (run / "config.yaml").write_text("[1, 2")


def config_calls(run: Path) -> None:
    with (run / "config.yaml").open("a") as file:
        file.write("_target_: os.mkdir\n")


def before_its_first_step(run: Path) -> None:
    empty(run)
    (run / "run.json").write_text(json.dumps({"version": 1, "status": "running"}))


def no_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    change_record(run, status="failed", reason="loss nan", best=None)


def before_its_first_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    going_on(run)


def going_on(run: Path) -> None:
    change_record(run, status="running", best=None)


def failed(run: Path) -> None:
    change_record(run, status="failed", reason="loss nan", exit_code=6)


def a_sweep(run: Path) -> None:
    """With one run, of a job that its ledger has not heard of."""
    run.rename(run.parent / "job")
    run.mkdir()
    (run.parent / "job").rename(run / "0")
    (run / "sweep.json").write_text(json.dumps({"version": 1, "status": "running", "command": "trainctl -m"}))


def best_damaged(run: Path) -> None:
    damage(run, 4)


def all_damaged(run: Path) -> None:
    for step in range(1, 5):
        damage(run, step)
    going_on(run)


def best_is_gone(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-00000004")


def weights_are_a_pickle(run: Path) -> None:
    path = run / "checkpoints" / "step-00000004" / "model.safetensors"
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))


def weights_lead_out(run: Path) -> None:
    path = run / "checkpoints" / "step-00000004" / "model.safetensors"
    path.rename(run.parent / "moved")
    path.symlink_to(run.parent / "moved")


def another_model(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("- 8\n", "- 9\n"))


def described(**values: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        plant(run, 4, lambda model, training, state: state["data"].update(values))

    change.__name__ = next(iter(values))
    return change


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (missing, 2, "run: no such directory"),
        (empty, 2, "there is no run here"),
        (foreign, 2, "there is no run here"),
        (record_damaged, 2, "run.json is not valid"),
        (config_damaged, 2, "config.yaml is not valid"),
        (config_calls, 3, "_target_"),
        (before_its_first_step, 4, "has no checkpoint: the run was stopped before the first one was saved"),
        (no_checkpoint, 4, "has no checkpoint: the run failed before the first one was saved (loss nan)"),
        (best_damaged, 4, "model.safetensors is damaged"),
        (all_damaged, 4, "has no usable checkpoint"),
        (best_is_gone, 4, "no usable checkpoint"),
        (weights_are_a_pickle, 3, "is a pickle"),
        (weights_lead_out, 3, "outside the run"),
        (another_model, 4, "does not fit model=mlp"),
        (described(task="guessing"), 4, "damaged: task"),
        (described(input_shape="abc"), 4, "damaged: input_shape"),
        (described(output_size=1 << 40, class_counts=None), 2, "model=mlp cannot be built"),
        (described(class_counts=["a"]), 4, "damaged: class_counts"),
        (described(raw=3), 4, "the description of its data is damaged"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_run_that_cannot_be_used(
    trainctl, run: Path, tmp_path: Path, spoil: Callable[[Path], None], code: int, message: str
) -> None:
    spoil(run)
    before = everything(tmp_path)
    outcome = trainctl("eval", "run")
    assert outcome.code == code, outcome.err
    assert message in outcome.err
    assert len(outcome.err.splitlines()) <= 2
    assert everything(tmp_path) == before


@pytest.mark.parametrize("spoil", [before_its_first_step, before_its_first_checkpoint])
def test_a_run_that_has_just_begun_has_no_checkpoint_yet(
    use, run: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(run)
    with lock(run):
        before = everything(tmp_path)
        outcome = use("run")
        assert everything(tmp_path) == before
    assert outcome.code == 4
    assert "run has no checkpoint yet: the run is still being trained" in outcome.err
    assert "wait until the first one is saved" in outcome.err


NO_RUN = (2, "there is no run here")
NOTHING = (2, "there is no capsule and no run here")
NONE = (4, "has no checkpoint")
TAKEN = (7, "another process is training in it")
UNUSABLE = (4, "has no usable checkpoint")
SWEEP = (2, "this is a sweep")
NO_CAPSULE = (4, "has no capsule")
AGAIN = (0, "identical: 4 of 4 steps")
UNRANKED = (0, "nothing to rank")
RANKED = (0, "1 setting, best first")
BROKEN = (4, "model.safetensors is damaged")
FINISHED = (0, "this run is finished")
FREE = contextlib.nullcontext
OTHER_VERBS = ("load", "resume", "verify", "compare", "replay")
# The state, whether a process trains in it, and what each of the other verbs answers: exit code, words.
ANSWERS: tuple[tuple[Any, ...], ...] = (
    (missing, FREE, *[(2, "run: no such directory")] * 5),
    (empty, FREE, NO_RUN, NO_RUN, NO_RUN, NO_RUN, NOTHING),
    (foreign, FREE, NO_RUN, NO_RUN, NO_RUN, NO_RUN, NOTHING),
    (before_its_first_step, FREE, NONE, NONE, NONE, UNRANKED, NO_CAPSULE),
    (before_its_first_step, lock, (4, "no checkpoint yet"), TAKEN, TAKEN, UNRANKED, NO_CAPSULE),
    (before_its_first_checkpoint, FREE, NONE, NONE, NONE, UNRANKED, NO_CAPSULE),
    (before_its_first_checkpoint, lock, (4, "no checkpoint yet"), TAKEN, TAKEN, UNRANKED, NO_CAPSULE),
    (going_on, FREE, (0, "MLP"), (0, ""), AGAIN, UNRANKED, NO_CAPSULE),
    (going_on, lock, (0, "MLP"), TAKEN, TAKEN, (0, "epoch 1, step 4"), NO_CAPSULE),
    (failed, FREE, (0, "MLP"), (0, ""), AGAIN, (0, "loss nan"), NO_CAPSULE),
    (no_checkpoint, FREE, (4, "the run failed before"), NONE, NONE, (0, "loss nan"), NO_CAPSULE),
    (record_damaged, FREE, *[(code, "run.json is not valid") for code in (2, 4, 2, 2)], NO_CAPSULE),
    (config_damaged, FREE, *[(code, "config.yaml is not valid") for code in (2, 4, 2, 2)], NO_CAPSULE),
    (best_damaged, FREE, BROKEN, FINISHED, (0, "damaged, not used: "), RANKED, NO_CAPSULE),
    (all_damaged, FREE, UNUSABLE, UNUSABLE, UNUSABLE, UNRANKED, NO_CAPSULE),
    (a_sweep, FREE, (0, "MLP"), (2, "the sweep was stopped before"), SWEEP, RANKED, SWEEP),
)


@pytest.mark.quick(20)
@pytest.mark.parametrize(
    ("spoil", "holding", "verb", "answer"),
    [
        pytest.param(
            spoil, holding, verb, answer, id=f"{spoil.__name__}{'' if holding is FREE else ' locked'}-{verb}"
        )
        for spoil, holding, *answers in ANSWERS
        for verb, answer in zip(OTHER_VERBS, answers, strict=True)
    ],
)
def test_what_every_other_verb_answers(
    trainctl,
    run: Path,
    spoil: Callable[[Path], None],
    holding: Callable[[Path], Any],
    verb: str,
    answer: tuple[int, str],
) -> None:
    spoil(run)
    with holding(run):
        outcome = loaded("run") if verb == "load" else trainctl(verb, "run")
    code, message = answer
    assert outcome.code == code, outcome.err
    assert message in (outcome.err if code else outcome.out)
    assert len(outcome.err.splitlines()) <= 2
    if verb == "resume" and code == 0:
        assert json.loads((run / "run.json").read_text())["status"] == "done"


def loaded(run: str) -> Outcome:
    """:func:`trainctl.load`, told as a command is."""
    try:
        return Outcome(0, type(load(run)).__name__, "")
    except TrainctlError as error:
        (problem,) = error.problems
        return Outcome(error.exit_code, "", f"{problem.message}\n{problem.remedy}")


@pytest.fixture
def sweep(run: Path) -> Path:
    """Three runs with made-up values; the best value is that of the setting with the worse mean."""
    folder = run.parent / "sweep"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"version": 1, "status": "done", "command": "trainctl -m"}))
    for name, lr, seed, value in (
        ("0", 0.1, 1, 0.99),
        ("1", 0.1, 2, 0.2),
        ("2", 0.01, 1, 0.7),
        ("3", 0.01, 2, 0.8),
    ):
        job = Path(shutil.copytree(run, folder / name))
        config = yaml.safe_load((job / "config.yaml").read_text())
        config["optim"]["lr"], config["seed"] = lr, seed
        (job / "config.yaml").write_text(yaml.safe_dump(config))
        best = {**read_record(job)["best"], "val/accuracy": value}
        change_record(job, best=best, monitor={"name": "val/accuracy", "lower_is_better": False})
    return folder


def test_of_a_sweep_the_best_run_is_used(use, sweep: Path) -> None:
    for name in ("0", "1", "2"):
        (sweep / name / "checkpoints").rename(sweep / name / "not used")
    before = everything(sweep)
    outcome = use("sweep")
    assert outcome.code == 0, outcome.err
    assert "sweep/3, step-00000004" in outcome.out
    assert "the best of 4 runs: run 3, val/accuracy 0.8000" in outcome.out
    assert everything(sweep) == before
    assert isinstance(load("sweep").predict("new.npz"), list)


def test_the_best_run_is_that_of_the_ranked_table(trainctl, sweep: Path) -> None:
    outcome = trainctl("compare", "sweep")
    assert "next: trainctl eval sweep/3\n" in outcome.out


def test_a_sweep_without_a_best_run_is_refused(use, sweep: Path) -> None:
    change_record(
        sweep / "1",
        monitor={"name": "val/loss", "lower_is_better": True},
        best={**read_record(sweep / "1")["best"], "val/loss": 0.1},
    )
    outcome = use("sweep")
    assert (outcome.code, "different monitors: val/accuracy, val/loss" in outcome.err) == (2, True), (
        outcome.err
    )
    for name in "0123":
        change_record(sweep / name, status="failed")
    outcome = use("sweep")
    assert outcome.code == 4
    assert "none of its runs has ended with a value" in outcome.err


@pytest.mark.parametrize(
    "transform", [{"kind": "pickle"}, {"kind": "affine", "values": {}, "tensors": {}}, 3]
)
def test_a_transform_that_is_none(use, run: Path, transform: Any) -> None:
    described(transform=transform)(run)
    outcome = use("run")
    assert outcome.code == 4
    assert "holds no usable transform" in outcome.err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"status": "failed", "reason": "loss nan"}, "the run failed (loss nan): this is its step 4"),
        ({"status": "interrupted"}, "the run was interrupted before its end: this is its step 4"),
        ({"status": "terminated"}, "the run was terminated before its end: this is its step 4"),
        ({"status": "running"}, "the run was killed before its end: this is its step 4"),
        ({"environment": {"torch": "1.0", "threads": 1}}, "the environment has changed: torch 1.0 → "),
    ],
)
def test_a_run_that_has_not_ended_well_is_used_with_a_notice(
    use, run: Path, values: dict[str, Any], message: str
) -> None:
    change_record(run, **values)
    outcome = use("run")
    assert outcome.code == 0, outcome.err
    # What an export is made of needs no device and no threads.
    assert message in outcome.out or "torch" in values.get("environment", {})


def test_a_run_that_is_being_trained_is_used_with_a_notice(use, run: Path) -> None:
    change_record(run, status="running", best=None)
    with lock(run):
        before = (run / ".lock").read_bytes()
        outcome = use("run")
        assert (run / ".lock").read_bytes() == before
    assert outcome.code == 0, outcome.err
    assert "the run is still being trained: this is its step 4" in outcome.out


def test_the_best_one_of_a_run_that_has_not_ended_is_in_its_checkpoints(use, run: Path) -> None:
    plant(run, 4, lambda model, training, state: state.update(best={"step": 2, "epoch": 1}))
    change_record(run, status="interrupted", best=None)
    assert "run, step-00000002" in use("run").out
    assert "run, step-00000004" in use("run", "--checkpoint", "last").out


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_best_one_that_its_run_no_longer_has_or_never_stored_is_the_newest_one_s(
    trainctl, run: Path, status: str
) -> None:
    # Resumed, found a better one, removed the old one, killed; or the disk was full.
    change_record(run, status=status, best={"step": 2, "epoch": 1})
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    assert "run, step-00000004" in trainctl("eval", "run").out
    assert trainctl("init_from=run", "epochs=1", "model.hidden=[8]", *QUICK, "hydra.run.dir=new").code == 0
    (entry,) = gather([run])
    assert (entry.state, entry.step) == (status, 4)


def test_a_checkpoint_that_is_removed_while_it_is_read_is_chosen_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_record(run, best={"step": 2, "epoch": 1})

    def read(path: Path, training: bool) -> CheckpointData:
        if path.name == "step-00000002" and path.exists():  # the run is resumed, and finds a better one
            change_record(run, status="running", best=None)
            shutil.rmtree(path)
        if path.name == "step-00000004":
            shutil.rmtree(path)
        return read_checkpoint(path)

    monkeypatch.setattr(retention, "read_checkpoint", read)
    path, content, damaged = retention.read_chosen(run, read_record(run))
    assert (path.name, content.step, damaged) == ("step-00000003", 3, [])


def test_a_damaged_newest_one_is_named_and_the_one_before_it_used(use, run: Path) -> None:
    damage(run, 4)
    outcome = use("run", "--checkpoint=last")
    assert outcome.code == 0, outcome.err
    assert "run, step-00000003" in outcome.out
    assert "damaged, not used: " in outcome.out


def test_a_device_that_is_not_there_is_said(trainctl, run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("device: auto", "device: cuda:77"))
    outcome = trainctl("eval", "run")
    assert outcome.code == 0, outcome.err
    assert "device=cuda:77: " in outcome.out
    assert "using the CPU" in outcome.out


def test_the_last_run_and_a_named_one(use, run: Path, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    shutil.copytree(run, tmp_path / "outputs" / "one")
    change_record(tmp_path / "outputs" / "one", name="mine")
    (tmp_path / "outputs" / "latest").symlink_to("one")
    assert use("mine").code == 0
    assert use("last").code == 0
