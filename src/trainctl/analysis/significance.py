"""Is one setting better than another by more than the noise of the seeds? Welch's t-test, Holm's correction.

Plain Python, because a table should not wait for SciPy; the tests compare it with SciPy's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainctl.training.display import number

LEVEL = 0.05
"""The p-value below which a difference counts as more than noise."""
_ROUNDS = 10_000
_TINY = 1e-300


@dataclass(frozen=True)
class Test:
    """The result of a t-test.

    Attributes:
        statistic: t, positive where the first mean is the larger.
        freedom: degrees of freedom.
        p: two-sided p-value.
    """

    __test__ = False  # no test of pytest's

    statistic: float
    freedom: float
    p: float


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); None for the latter with fewer than two values.

    Not finite where a value is not. ``values`` must not be empty.
    """
    if not all(map(math.isfinite, values)):
        return math.nan, None
    if len(set(values)) == 1:
        return values[0], 0.0 if len(values) > 1 else None  # exactly, whatever rounding would make of it
    scale = max(map(abs, values))  # so that no square is too large or too small for a float
    scaled = [value / scale for value in values]
    mean = math.fsum(scaled) / len(scaled)
    variance = math.fsum((value - mean) ** 2 for value in scaled) / (len(scaled) - 1)
    return mean * scale, math.sqrt(variance) * scale


def welch(first: Sequence[float], second: Sequence[float]) -> Test | None:
    """Welch's t-test: two means, unpaired, of unequal variances; two-sided.

    None where it is not defined: fewer than two values on a side, values that are not finite, or no scatter
    on either side. Source: B. L. Welch, Biometrika 34 (1947), with Satterthwaite's degrees of freedom.
    """
    if min(len(first), len(second)) < 2 or not all(map(math.isfinite, (*first, *second))):
        return None
    scale = max(abs(value) for value in (*first, *second)) or 1.0
    (a, s), (b, t) = (mean_and_deviation([value / scale for value in side]) for side in (first, second))
    assert s is not None
    assert t is not None
    left, right = s * s / len(first), t * t / len(second)
    if left + right == 0.0:
        return None
    statistic = (a - b) / math.sqrt(left + right)
    # Shares, not squares of variances: those of values that are nearly equal are too small for a float.
    share = left / (left + right)
    freedom = 1.0 / (share**2 / (len(first) - 1) + (1.0 - share) ** 2 / (len(second) - 1))
    return Test(statistic, freedom, two_sided_p(statistic, freedom))


def two_sided_p(statistic: float, freedom: float) -> float:
    """The probability of Student's t, with ``freedom`` degrees, at least as far from 0 as ``statistic``."""
    square = statistic * statistic
    if square == math.inf:
        return 0.0
    return regularised_beta(freedom / 2.0, 0.5, freedom / (freedom + square), square / (freedom + square))


def regularised_beta(a: float, b: float, x: float, rest: float | None = None) -> float:
    """The regularised incomplete beta function I_x(a, b), for positive ``a`` and ``b`` and x in [0, 1].

    ``rest`` is 1 - x, where the caller knows it more exactly than the subtraction gives it. Source: the
    continued fraction of NIST's Digital Library of Mathematical Functions, 8.17.22, by Lentz's method.
    """
    rest = 1.0 - x if rest is None else rest
    if x <= 0.0 or rest <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):  # there the fraction converges slowly, its mirror image fast
        return 1.0 - regularised_beta(b, a, rest, x)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * _log(x, rest) + b * _log(rest, x)
    return min(1.0, math.exp(log) * _fraction(a, b, x) / a)


def _log(x: float, rest: float) -> float:
    return math.log(x) if x < 0.5 else math.log1p(-rest)


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _ROUNDS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1.0 / _not_zero(1.0 + step * d)
            c = _not_zero(1.0 + step / c)
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def holm(values: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected for their number, in the same order.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted, largest = [0.0] * len(values), 0.0
    for position, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - position) * values[index]))
        adjusted[index] = largest
    return adjusted


def describe_difference(
    name: str,
    first: Sequence[float],
    second: Sequence[float],
    p_holm: float | None,
    settings: int,
    repeats: str = "seeds",
) -> str:
    """Whether the best two of ``settings`` differ in ``name`` by more than the noise of the ``repeats``.

    The test is unpaired even where both have the same seeds: one seed under two settings is not the same
    draw, the two runs part within a few steps. If it nearly is, Welch's test errs towards no difference.
    """
    a, b = mean_and_deviation(first)[0], mean_and_deviation(second)[0]
    if a == b:
        return f"first and second are equal in {name}"
    gap = f"first and second differ by {number(abs(a - b))} in {name}"
    few = [place for place, values in (("first", first), ("second", second)) if len(values) < 2]
    if few:
        who = "both have" if len(few) == 2 else f"the {few[0]} has"
        return f"{gap}; too few {repeats} for a significance test, {who} only one: use seed=1,2,3"
    test = welch(first, second)
    if test is None:
        return f"{gap}; no significance test: the {repeats[:-1]} changed nothing in either of them"
    described = (
        f"Welch's t-test: p = {_p(test.p)}, t = {abs(test.statistic):.2f}, df = {test.freedom:.1f}, "
        f"n = {len(first)} and {len(second)}"
    )
    if test.p >= LEVEL:
        return f"{gap}, within the noise of the {repeats} ({described}): more seeds may separate them"
    if p_holm is not None and p_holm >= LEVEL:
        return (
            f"{gap} ({described}), but the first was picked as the best of {settings}: with Holm's "
            f"correction p = {_p(p_holm)}, which may be noise; more seeds may separate them"
        )
    return f"{gap}, more than the noise of the {repeats} ({described})"


def describe_best_of(settings: int, corrected: Sequence[float]) -> str:
    """A warning about the best of many; ``corrected`` are the p-values of the others against it."""
    text = f"{settings} settings were compared, and the best of many is also the luckiest"
    text += ": expect a little less of it with new seeds"
    if corrected:
        same, others = sum(p >= LEVEL for p in corrected), len(corrected)
        clear = "the other that was tested differs" if others == 1 else f"all {others} others tested differ"
        differ = f"{same} of {others} others do not differ" if same else clear
        text += f"; {differ} from it significantly (Welch, Holm, 5 %)"
    return text


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"
