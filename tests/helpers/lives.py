"""Lives of configs in this process, as far as a test wants them."""

from __future__ import annotations

from pathlib import Path

from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.smoke.cases import Case
from trainctl.smoke.lifecycle import Life, Telling
from trainctl.smoke.report import Result


def life_of(folder: Path, *words: str, settings: tuple[str, ...] = (), group: str = "experiment") -> Life:
    """The life of a config of these words, in ``folder``; what it says is kept in its ``results``."""
    folder.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    life = Life(
        Composer(),
        Case(group, words[0], words),
        tuple(map(to_hydra, settings)),
        folder,
        lambda *arguments: 0,
        Telling(results.append, lambda note: None),
    )
    life.results = results  # type: ignore[attr-defined]
    life.used = folder / "uninterrupted"
    return life


def built(folder: Path, *words: str, settings: tuple[str, ...] = ()) -> tuple[Life, Result]:
    """A life after its phase ``build``, and how that went."""
    life = life_of(folder, *words, settings=settings)
    life._do("compose", life._compose)
    life._do("build", life._build)
    return life, life.results[-1]  # type: ignore[attr-defined]


def trained(folder: Path, *words: str) -> Life:
    """A life after its phase ``evaluate``, without those of a run that is killed."""
    life, _ = built(folder, *words)
    for name, phase in (("train", life._train), ("save", life._save), ("evaluate", life._evaluate)):
        life._do(name, phase)
    wrong = [each for each in life.results if each.status != "passed"]  # type: ignore[attr-defined]
    assert not wrong, wrong
    return life
