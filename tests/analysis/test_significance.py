"""The t-test and Holm's correction agree with SciPy's and with a table worked out by hand."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from trainctl.analysis.significance import holm, mean_and_deviation, two_sided_p, welch


def test_welch_agrees_with_scipy_over_sizes_and_scales() -> None:
    draw = random.Random(0)
    for _ in range(300):
        scale = 10 ** draw.uniform(-6, 4)
        first = [draw.gauss(0, scale) for _ in range(draw.randint(2, 12))]
        second = [draw.gauss(draw.uniform(-2, 2), 1) for _ in range(draw.randint(2, 12))]
        expected = stats.ttest_ind(first, second, equal_var=False)
        found = welch(first, second)
        assert found is not None
        assert found.statistic == pytest.approx(expected.statistic, rel=1e-10)
        assert found.freedom == pytest.approx(expected.df, rel=1e-10)
        assert found.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_one_side_without_scatter_is_still_a_test() -> None:
    found = welch([1.0, 1.0, 1.0], [2.0, 3.0, 4.0])
    assert found is not None
    assert found.freedom == pytest.approx(2.0)
    assert found.p == pytest.approx(stats.ttest_1samp([2.0, 3.0, 4.0], 1.0).pvalue)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0], [2.0, 3.0]),
        ([1.0, 1.0], [1.0, 1.0]),
        ([0.1, 0.1, 0.1], [0.3, 0.3]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([1.0, math.nan], [1.0, 2.0]),
        ([1.0, math.inf], [1.0, 2.0]),
    ],
)
def test_where_there_is_no_test_there_is_none(first: list[float], second: list[float]) -> None:
    assert welch(first, second) is None


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e300])
def test_the_size_of_the_values_changes_nothing(scale: float) -> None:
    found = welch([1 * scale, 2 * scale, 1.5 * scale], [3 * scale, 5 * scale])
    expected = stats.ttest_ind([1.0, 2.0, 1.5], [3.0, 5.0], equal_var=False)
    assert found is not None
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize("freedom", [0.7, 1.0, 2.5, 30.0, 1e5])
@pytest.mark.parametrize("statistic", [0.0, 1e-3, 0.3, 2.0, 40.0])
def test_the_tail_of_student_s_distribution(statistic: float, freedom: float) -> None:
    assert two_sided_p(statistic, freedom) == pytest.approx(2 * stats.t.sf(statistic, freedom), rel=1e-9)


def test_the_deviation_is_that_of_a_sample() -> None:
    assert mean_and_deviation([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, math.sqrt(7 / 3)))
    assert mean_and_deviation([3.0]) == (3.0, None)
    assert mean_and_deviation([0.1, 0.1, 0.1]) == (0.1, 0.0)
    assert math.isnan(mean_and_deviation([1.0, math.nan])[0])


def test_holm_s_correction_as_in_his_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
