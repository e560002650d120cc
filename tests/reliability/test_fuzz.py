"""No file that is damaged in a field, or as a whole, leads to an internal error or a long wait."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.reliability.fuzz import VERBS, Bench, Verb, bounded, damages, make_places
from trainctl.runs import record

_SAMPLE = 30


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that verbs read, and beside it a copy."""
    root = tmp_path_factory.mktemp("fuzz")
    (root / "here").mkdir()
    before = Path.cwd()
    os.chdir(root / "here")
    try:
        make_places()
    finally:
        os.chdir(before)
    shutil.copytree(root / "here", root / "whole", symlinks=True)
    return root


@pytest.fixture
def bench(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.chdir(places / "here")
    with bounded():
        yield Bench(places / "whole")


@pytest.mark.slow
def test_a_sample(bench: Bench, trainctl) -> None:
    every = [(verb, file) for verb in VERBS for file in bench.files(verb)]
    draw = random.Random(0)
    wrong = []
    for verb, file in draw.choices(every, k=_SAMPLE):
        wrong.append(bench.tried(verb, draw.choice(list(damages(file))), trainctl))
    assert not [each for each in wrong if each]


@pytest.mark.slow
def test_the_checks_of_a_record_taken_away_are_noticed(
    bench: Bench, trainctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_USABLE", {})
    verb = next(verb for verb in VERBS if verb.words[0] == "eval")
    fields = [each for each in damages(Path("run/run.json")) if each.what.startswith("environment.threads")]
    assert any(bench.tried(verb, damage, trainctl) for damage in fields)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_every_field_of_every_file(verb: Verb, bench: Bench, trainctl) -> None:
    wrong = [
        said
        for file in bench.files(verb)
        for damage in islice(damages(file), None, None, verb.every)
        if (said := bench.tried(verb, damage, trainctl))
    ]
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:20])
