"""Lifecycle tests of configs in this process, as far as a test wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.smoke.cases import Case
from trainctl.smoke.lifecycle import LifecycleTest
from trainctl.smoke.report import Result


def lifecycle_of(
    folder: Path, *words: str, settings: tuple[str, ...] = (), group: str = "experiment"
) -> tuple[LifecycleTest, list[Result]]:
    """The lifecycle test of a config of these words, in ``folder``, and the list that its results go to."""
    folder.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    case, typed = Case(group, words[0], words), tuple(map(to_hydra, settings))

    def tell(kind: str, content: Any) -> None:
        if kind == "result":
            results.append(content)

    return LifecycleTest(Composer(), case, typed, folder, tell, lambda *asked: 0), results


def built(folder: Path, *words: str, settings: tuple[str, ...] = ()) -> tuple[LifecycleTest, Result]:
    """A lifecycle test after its phase ``build``, and the result of that."""
    test, results = lifecycle_of(folder, *words, settings=settings)
    test.do("compose", test.compose)
    test.do("build", test.build)
    return test, results[-1]


def trained(folder: Path, *words: str) -> LifecycleTest:
    """A lifecycle test after its phase ``evaluate``, without those of a run that is killed."""
    test, results = lifecycle_of(folder, *words)
    for name, phase in (
        ("compose", test.compose),
        ("build", test.build),
        ("train", test._train),
        ("save", test._save),
        ("evaluate", test._evaluate),
    ):
        test.do(name, phase)
    wrong = [each for each in results if each.status != "passed"]
    assert not wrong, wrong
    return test
