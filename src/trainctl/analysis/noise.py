"""What a ranking means, in sentences: whether the first is better than the second by more than noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trainctl.analysis.significance import Test, welch
from trainctl.training.display import number

if TYPE_CHECKING:
    from trainctl.analysis.discovery import Monitor
    from trainctl.analysis.ranking import Row

LEVEL = 0.05
"""The p-value below which a difference counts as more than noise."""

# Arguments of a dataset that leave the examples of the validation split what they are.
_SAME_EXAMPLES = ("dataset.name", "dataset.augment", "dataset.root", "dataset.download")


def findings(rows: Sequence[Row], monitor: Monitor, columns: Sequence[str]) -> Iterator[str]:
    """The sentences for ranked ``rows``, whose settings differ in ``columns``."""
    ranked = [row for row in rows if row.rank is not None]
    if len(ranked) > 1:
        yield _noise(ranked, monitor)
    if len(ranked) > 2:
        yield _many(ranked)
    if lost := sum(row.unfinished > 0 for row in rows):
        yield (
            f"{lost} setting{'s' if lost > 1 else ''} had seeds that did not end: the mean is of the others, "
            "which may be the lucky ones"
        )
    examples = [key for key in columns if key.startswith("dataset.") and key not in _SAME_EXAMPLES]
    if examples:
        yield (
            f"{', '.join(examples)} var{'y' if len(examples) > 1 else 'ies'}: not all values are "
            "of the same validation examples, so part of a difference may come from these"
        )


def _noise(ranked: Sequence[Row], monitor: Monitor) -> str:
    """Whether first and second differ by more than the noise of the seeds.

    Unpaired, also where both have the same seeds: one seed under two settings is not the same draw, the two
    runs part within a few steps; where it is nearly so, Welch's test errs towards seeing no difference.
    """
    first, second = ranked[:2]
    if first.mean == second.mean:
        return f"first and second are equal in {monitor.name}"
    gap = f"first and second differ by {number(abs(first.mean - second.mean))} in {monitor.name}"
    few = [name for name, row in (("the first", first), ("the second", second)) if len(row.values) < 2]
    if few:
        who = "both have" if len(few) == 2 else f"{few[0]} has"
        return (
            f"{gap}; whether that is more than the noise of the seeds cannot be told, {who} one seed only: "
            "run each setting with several, seed=1,2,3"
        )
    test = welch(first.values, second.values)
    if test is None:
        return f"{gap}; in neither of them did the seed change anything, so there is no noise to test against"
    assert second.p_holm is not None
    described = _described(test, first, second)
    if test.p >= LEVEL:
        return f"{gap}, which is within the noise of the seeds ({described}): more seeds may tell them apart"
    if second.p_holm >= LEVEL:
        return (
            f"{gap} ({described}), but the first was picked as the best of {len(ranked)}: with Holm's "
            f"correction p = {_p(second.p_holm)}, which may be noise: more seeds may tell"
        )
    return f"{gap}, more than the noise of the seeds ({described})"


def _described(test: Test, first: Row, second: Row) -> str:
    return (
        f"Welch's t-test: p = {_p(test.p)}, t = {abs(test.statistic):.2f}, df = {test.freedom:.1f}, "
        f"n = {len(first.values)} and {len(second.values)}"
    )


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"


def _many(ranked: Sequence[Row]) -> str:
    said = f"{len(ranked)} settings were compared, and the best of many is also the luckiest: expect a "
    said += "little less of it with new seeds"
    tested = [row for row in ranked if row.p_holm is not None]
    if tested:
        alike = sum(row.p_holm >= LEVEL for row in tested if row.p_holm is not None)
        said += f"; {alike} of {len(tested)} others cannot be told from it (Welch, Holm's correction, 5 %)"
    return said
