"""Composing many jobs quickly gives what composing each in full gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.config.stored_config import stored_files
from trainctl.config.sweep_jobs import compose_jobs
from trainctl.errors import ConfigError
from trainctl.sweep.checking import check_all, check_jobs, job_key

_WORDS = {
    "lr": ["1e-3", "0.1", "${train.epochs}"],
    "seed": ["1", "2"],
    "epochs": ["3", "null"],
    "batch_size": ["32", "64"],
    "model.hidden": ["[8]", "[16,8]", "[]"],
    "model": ["mlp", "linear"],
    "optim": ["sgd", "adam"],
    "optim.weight_decay": ["0.1"],
    "guard": ["full", "default"],
    "guard.skip": ["2"],
    "scheduler": ["cosine", "none"],
    "train.metrics": ["[accuracy]", "auto"],
    "dataset.val": ["0.2", "100"],
    "experiment": ["digits_cosine"],
    "name": ["a", "'run_${seed}'"],
    "train.max_steps": ["7"],
    "+train.patience": ["2"],
    "~scheduler.warmup_steps": [""],
    "nonsense": ["1"],
    "dataset.root": ["a=b"],
}


def _job(chance: random.Random, keys: list[str]) -> list[str]:
    return [
        to_hydra(key if key.startswith("~") else f"{key}={chance.choice(_WORDS[key])}", sweep=True)
        for key in keys
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_the_quick_way_gives_the_same_as_the_whole_one(seed: int) -> None:
    chance = random.Random(seed)
    keys = chance.sample(list(_WORDS), chance.randint(1, 5))
    jobs = [_job(chance, keys) for _ in range(5)]
    quick = list(compose_jobs(Composer(), jobs))
    for job, found in zip(jobs, quick, strict=True):
        if isinstance(found, ConfigError):
            with pytest.raises(ConfigError) as caught:
                Composer().compose(job)
            assert found.problems == caught.value.problems
            continue
        whole = Composer().compose(job)
        assert found.config == whole.config
        assert found.notices == whole.notices
        assert stored_files(found) == stored_files(whole)
        assert OmegaConf.to_container(found.tree) == OmegaConf.to_container(whole.tree)
        assert job_key(found) == job_key(whole)


def test_values_only_are_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = []
    compose = Composer.compose
    monkeypatch.setattr(Composer, "compose", lambda self, words: composed.append(1) or compose(self, words))
    checked = check_jobs(Composer(), ["optim.lr=range(1,6)", "seed=range(5)", "++model.hidden=[8]"])
    assert (len(checked.jobs), len(composed)) == (25, 1)
    assert [job.number for job in checked.jobs] == list(range(25))
    assert len({job.key for job in checked.jobs}) == 25
    assert checked.jobs[0].label == "lr=1 seed=0"
    (alone,) = check_jobs(Composer(), ["seed=1", "pictures=false"]).jobs
    assert alone.label == "seed=1"


def test_a_problem_of_several_jobs_is_said_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_jobs(Composer(), ["optim.lr=-1,0.1", "seed=1,2", "train.epochs=0"])
    messages = [problem.message for problem in caught.value.problems]
    assert any("optim.lr=-1" in message and "(2 of 4 jobs)" in message for message in messages)
    assert any("train.epochs=0" in message and "(4 of 4 jobs)" in message for message in messages)


def test_the_key_is_of_what_determines_the_result(tmp_path: Path) -> None:
    def key(*words: str) -> str:
        (job,) = check_all(Composer(), [list(words)]).jobs
        return job.key

    same = key()
    assert key("display.mode=none") == key("name=a") == key("checkpoint.keep_last=3") == same
    assert key("optim.lr=0.001") == same
    assert len({same, key("seed=1"), key("optim.lr=0.01"), key("train.epochs=1"), key("threads=1")}) == 5
    plugin = tmp_path / "mine.py"
    plugin.write_text("first = 1\n")
    first = key(f"plugins=[{plugin}]")
    plugin.write_text("second = 2\n")
    assert len({same, first, key(f"plugins=[{plugin}]")}) == 3


def test_one_name_for_several_jobs_is_refused() -> None:
    with pytest.raises(ConfigError, match="several jobs would have this name"):
        check_jobs(Composer(), ["seed=1,2", "name=same"])
    checked = check_jobs(Composer(), ["seed=1,2", "name='run_${seed}'"])
    assert [config.name for config in checked.configs] == ["run_1", "run_2"]


def test_the_advised_name_works_for_all_keys_that_vary() -> None:
    words = ["optim.lr=0.01,0.001", "model=mlp,linear", "seed=1,2"]
    with pytest.raises(ConfigError, match="run_1: several jobs") as caught:
        check_jobs(Composer(), [*words, "name='run_${seed}'"])
    name = caught.value.problems[0].remedy.removeprefix("make it differ: ").partition(",")[0]
    assert name == "name='run_${optim.lr}_${model.name}_${seed}'"
    names = [config.name for config in check_jobs(Composer(), [*words, name]).configs]
    assert len(set(names)) == 8
    for words in (
        ["dataset=mnist", "++dataset.root=a/b,c/d"],
        ["experiment=digits_cosine,digits_sequential"],
    ):
        with pytest.raises(ConfigError) as caught:
            check_jobs(Composer(), [*words, "name=same"])
        assert caught.value.problems[0].remedy == "leave it out: jobs are numbered"


def test_a_key_given_twice_is_said() -> None:
    checked = check_jobs(Composer(), ["optim.lr=0.1", "++optim.lr=0.2", "seed=1,2"])
    assert checked.notices == ["lr: given 2 times, the last one counts"]
    assert {config.optim.arguments["lr"] for config in checked.configs} == {0.2}
