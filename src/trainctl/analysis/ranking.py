"""Runs ranked by their monitored validation value; those that differ only in seed and fold are one setting.

The test split plays no part: a setting that is chosen by it can no longer be measured on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from trainctl.analysis.discovery import Entry, Monitor, gather
from trainctl.analysis.significance import (
    describe_best_of,
    describe_difference,
    holm,
    mean_and_deviation,
    welch,
)
from trainctl.config.overrides import ALIASES
from trainctl.errors import TrainctlError
from trainctl.registry import COMPONENTS
from trainctl.registry.constraints import show
from trainctl.sweep.pruning import PRUNED
from trainctl.training.display import counted, number

_runs = partial(counted, what="run")
ABSENT = object()
"""The value of a setting that a run does not have: an argument of another component."""

# Settings without influence on the result; the monitor decides in which table a run is.
_BESIDE_GROUPS = ("display", "checkpoint", "tracker", "sweep", "hydra", "pictures", "profile", "seed", "name")
_FOLD = "dataset.fold"
_BESIDE = ("train.monitor", "dataset.download", "dataset.cache_gb", "dataset.cache_dir", _FOLD)
# Arguments of a dataset that do not change its validation samples.
_SAME_SAMPLES = tuple(
    f"dataset.{key}"
    for key in ("name", "augment", "root", "download", "sampling", "mixup", "cutmix", "label_noise")
)
_SHORT = {key: alias for alias, key in ALIASES.items()}


@dataclass(frozen=True)
class Row:
    """One setting, with all its seeds and folds.

    Attributes:
        rank: from 1, equal for equal means; None where the mean is not finite.
        settings: the values of the columns.
        runs: one a seed and fold, the best first.
        values: their values, in the same order.
        mean, deviation: of the values; the sample standard deviation (n - 1), None for a single value.
        unfinished: seeds and folds of this setting that did not end.
        p, p_holm: of Welch's t-test against the first row, plain and corrected; None where not defined.
    """

    rank: int | None
    settings: Mapping[str, Any]
    runs: tuple[Entry, ...]
    values: tuple[float, ...]
    mean: float
    deviation: float | None
    unfinished: int = 0
    p: float | None = None
    p_holm: float | None = None

    @property
    def seconds(self) -> float | None:
        """The mean time of a run."""
        return _mean(run.seconds for run in self.runs)

    @property
    def training_seconds(self) -> float | None:
        """The mean time of a run's training steps."""
        return _mean(run.training_seconds for run in self.runs)


@dataclass(frozen=True)
class Group:
    """Settings that can be ranked together: they have the same monitor on the same data.

    Attributes:
        about: how this group differs from the others; empty where it is the only one.
        columns: the settings that vary, as keys.
        rows: the best first.
        findings: whether the first is better than the second by more than noise, in sentences.
    """

    monitor: Monitor
    about: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Other:
    """A run that is not ranked: ``label`` identifies it, ``why`` is the reason or its progress."""

    entry: Entry
    label: str
    why: str


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs.

    Attributes:
        groups: the ranked ones, the largest group first.
        others: those that did not end or cannot be ranked.
        notes: remarks on the tables.
        columns: the settings that are not the same in all runs, ranked or not, as keys.
    """

    groups: tuple[Group, ...]
    others: tuple[Other, ...] = ()
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def compare(places: Iterable[str | Path]) -> Comparison:
    """Compare the runs in ``places``: run directories, ``last``, names, sweeps, folders of these.

    Raises ConfigError for a place without a run, and the first error where no run can be read.
    """
    return rank(gather(places))


def short(key: str) -> str:
    """A key as people type it: ``lr`` for ``optim.lr``, ``model`` for ``model.name``."""
    return _SHORT.get(key) or (key.removesuffix(".name") if key.removesuffix(".name") in COMPONENTS else key)


def shown(value: Any) -> str:
    """A setting as one would type it."""
    return "–" if value is ABSENT else show(value)


def rank(entries: Sequence[Entry]) -> Comparison:
    """Rank runs that were read."""
    why = {id(entry): _not_ranked(entry) for entry in entries}
    able = [entry for entry in entries if why[id(entry)] is None]
    varying = _varying([entry for entry in entries if entry.settings])
    unfinished = [entry for entry in entries if entry.state != "done" and entry.settings]
    kinds: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in able:
        kinds.setdefault(_kind(entry), []).append(entry)
    groups, repeated = [], 0
    for members in sorted(kinds.values(), key=len, reverse=True):
        folded, more = _fold(members, varying)
        repeated += more
        groups.append(_group(folded, varying, unfinished))
    if len(groups) > 1:
        groups = [replace(group, about=_about(group)) for group in groups]
    others = [
        Other(entry, _label(entry, varying), reason)
        for entry in entries
        if (reason := why[id(entry)]) is not None
    ]
    notes = tuple(_notes(able, len(groups), repeated))
    return Comparison(tuple(groups), tuple(others), notes, tuple(varying))


def _notes(ranked: Sequence[Entry], tables: int, repeated: int) -> Iterator[str]:
    if tables > 1:
        yield f"{tables} tables: values of different metrics or data cannot be ranked together"
    if repeated:
        yield f"{_runs(repeated)} repeat settings, seed and fold of another: the newest of each counts"
    if changed := [entry for entry in ranked if entry.changed]:
        yield f"{_runs(len(changed))} resumed with changed settings: the newest are shown"
    if pruned := [entry for entry in ranked if entry.reason.startswith(PRUNED)]:
        names = ", ".join(f"{entry.directory.name} ({entry.reason.partition(':')[0]})" for entry in pruned)
        yield f"{_runs(len(pruned))} not trained to the end, the value is the best until then: {names}"
    if any(entry.resumed for entry in ranked):
        yield "the time of a resumed run includes the pause"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _not_ranked(entry: Entry) -> str | None:
    """Why an entry is not ranked, or its progress; None where it is ranked."""
    if entry.state in ("failed", "unreadable"):
        return entry.reason or "no reason recorded"
    if entry.state != "done":
        return "; ".join(filter(None, (_progress(entry), entry.reason)))
    if entry.monitor is None or entry.value is None:
        return f"{entry.monitor.name if entry.monitor else 'the monitored value'} was never computed"
    return None


def _progress(entry: Entry) -> str:
    if entry.step is None:
        return ""
    epochs = entry.settings.get("train.epochs")
    of = f"/{epochs}" if isinstance(epochs, int) else ""
    epoch = "" if entry.epoch is None else f"epoch {entry.epoch}{of}, "
    best = ""
    if entry.monitor is not None and entry.value is not None:
        best = f", best {entry.monitor.name} {number(entry.value)}"
    return f"{epoch}step {entry.step}{best}"


# ------------------------------------------------------------------- which settings


def _kind(entry: Entry) -> tuple[Any, ...]:
    """What must be equal for the values of two runs to be comparable."""
    assert entry.monitor is not None
    loss = {key: _same(value) for key, value in entry.settings.items() if key.startswith("loss.")}
    decides_by_loss = entry.monitor.name == "val/loss"
    return (
        entry.monitor,
        entry.settings.get("dataset.name"),
        (tuple(sorted(loss.items())), entry.scaled) if decides_by_loss else None,
    )


def _about(group: Group) -> str:
    entry = group.rows[0].runs[0]
    about = f"{group.monitor.name} of dataset {entry.settings.get('dataset.name', 'unknown')}"
    if group.monitor.name == "val/loss":
        about += f" under loss {entry.settings.get('loss.name', 'unknown')}"
        about += " of scaled targets" if entry.scaled else ""
    return about


def _varying(entries: Sequence[Entry]) -> list[str]:
    """The keys whose values are not the same in all entries, in the order of the config."""
    keys = dict.fromkeys(key for entry in entries for key in entry.settings if not _is_beside(key))
    return [key for key in keys if len({_same(setting(entry, key)) for entry in entries}) > 1]


def _is_beside(key: str) -> bool:
    return key in _BESIDE or key.partition(".")[0] in _BESIDE_GROUPS


def setting(entry: Entry, key: str) -> Any:
    """The value of ``key`` in a run: from its config, else its default; ABSENT without one."""
    if key in entry.settings:
        return entry.settings[key]
    group, _, argument = key.partition(".")
    name = entry.settings.get(f"{group}.name")
    known = group in COMPONENTS and isinstance(name, str)
    return _defaults(group, name).get(argument, ABSENT) if known else ABSENT


@cache
def _defaults(group: str, name: str) -> Mapping[str, Any]:
    """The defaults of a component's arguments; none for a plugin's, which is not imported."""
    try:
        parameters = COMPONENTS[group].signature(name).parameters
    except TrainctlError:
        return {}
    return {each.name: each.default for each in parameters if not each.required}


def _same(value: Any) -> Any:
    """A value that is equal for equal settings: 1 and 1.0 are the same number, true is not 1."""
    if isinstance(value, list | tuple):
        return tuple(map(_same, value))
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), repr(_same(item))) for key, item in value.items()))
    return (isinstance(value, bool), value)


def _label(entry: Entry, varying: Sequence[str]) -> str:
    keys = [key for key in [*varying, _FOLD, "seed"] if key in entry.settings]
    words = " ".join(f"{short(key)}={shown(entry.settings[key])}" for key in keys)
    return f"{entry.name}: {words}" if entry.name and words else entry.name or words


# ------------------------------------------------------------------- folding and ranking


def _key(entry: Entry, varying: Sequence[str]) -> tuple[Any, ...]:
    return tuple(_same(setting(entry, key)) for key in varying)


def _fold(entries: Sequence[Entry], varying: Sequence[str]) -> tuple[dict[Any, dict[Any, Entry]], int]:
    """The runs by setting, seed and fold, the newest of each, and how many were left out for that.

    Two runs of one setting, seed and fold are one measurement: counted twice they would hide noise.
    """
    folded: dict[Any, dict[Any, Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.ended):
        folded.setdefault(_key(entry, varying), {})[_seed(entry)] = entry
    return folded, len(entries) - sum(map(len, folded.values()))


def _seed(entry: Entry) -> Any:
    return _same(entry.settings.get("seed", entry.directory)), _same(entry.settings.get(_FOLD))


def _group(
    folded: Mapping[Any, Mapping[Any, Entry]], varying: Sequence[str], unfinished: Sequence[Entry]
) -> Group:
    members = [entry for seeds in folded.values() for entry in seeds.values()]
    columns = [key for key in varying if len({_same(setting(entry, key)) for entry in members}) > 1]
    monitor = members[0].monitor
    assert monitor is not None
    missing: dict[Any, set[Any]] = {}
    for entry in unfinished:
        missing.setdefault(_key(entry, varying), set()).add(_seed(entry))
    better: Callable[[float], float] = float if monitor.lower_is_better else float.__neg__

    def by_value(run: Entry) -> tuple[bool, float]:
        assert run.value is not None
        return not math.isfinite(run.value), better(run.value)

    rows = []
    for key, seeds in folded.items():
        runs = tuple(sorted(seeds.values(), key=by_value))
        values = tuple(run.value for run in runs if run.value is not None)
        mean, deviation = mean_and_deviation(values)
        settings = {column: setting(runs[0], column) for column in columns}
        lost = len(missing.get(key, set()) - set(seeds))
        rows.append(Row(None, settings, runs, values, mean, deviation, lost))
    rows.sort(key=lambda row: (not math.isfinite(row.mean), better(row.mean)))
    rows = _tested(_numbered(rows))
    return Group(monitor, "", tuple(columns), tuple(rows), tuple(_findings(rows, monitor, columns)))


def _numbered(rows: Sequence[Row]) -> list[Row]:
    numbered: list[Row] = []
    for position, row in enumerate(rows, start=1):
        if not math.isfinite(row.mean):
            numbered.append(row)
            continue
        tied = numbered and numbered[-1].mean == row.mean
        numbered.append(replace(row, rank=numbered[-1].rank if tied else position))
    return numbered


def _tested(rows: Sequence[Row]) -> list[Row]:
    """The rows with the p-values of the first against each other one."""
    tests = [welch(rows[0].values, row.values) for row in rows[1:]]
    known = [test.p for test in tests if test is not None]
    adjusted = iter(holm(known))
    return [
        rows[0],
        *(
            replace(row, p=test.p, p_holm=next(adjusted)) if test is not None else row
            for row, test in zip(rows[1:], tests, strict=True)
        ),
    ]


def _findings(rows: Sequence[Row], monitor: Monitor, columns: Sequence[str]) -> Iterator[str]:
    """What the ranking means, in sentences."""
    ranked = [row for row in rows if row.rank is not None]
    folds = any(run.settings.get(_FOLD) is not None for row in rows for run in row.runs)
    repeats = "folds" if folds else "seeds"
    if len(ranked) > 1:
        first, second = ranked[:2]
        values = first.values, second.values
        yield describe_difference(monitor.name, *values, second.p_holm, len(ranked), repeats)
        if folds:
            yield (
                "the training samples of folds overlap, so that they scatter less than new data would: p is"
                " too small"
            )
    if len(ranked) > 2:
        yield describe_best_of(len(ranked), [row.p_holm for row in ranked if row.p_holm is not None])
    if lost := sum(row.unfinished > 0 for row in rows):
        yield (
            f"{lost} setting{'s' if lost > 1 else ''} had {repeats} that did not end: the mean is of the"
            " others, which may be the lucky ones"
        )
    changing = [key for key in columns if key.startswith("dataset.") and key not in _SAME_SAMPLES]
    if changing:
        yield (
            f"{', '.join(changing)} var{'y' if len(changing) > 1 else 'ies'}: the validation samples are not"
            " all the same, which may explain part of a difference"
        )
