"""Ranking, folding over seeds, and the word on noise, against values worked out on their own."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from trainctl.analysis.discovery import Entry, Monitor
from trainctl.analysis.ranking import ABSENT, Comparison, rank, setting, short
from trainctl.analysis.significance import describe_best_of

ACCURACY = Monitor("val/accuracy", False)
LOSS = Monitor("val/loss", True)
BASE = {
    "seed": 0,
    "model.name": "mlp",
    "model.hidden": [32],
    "optim.name": "adam",
    "optim.lr": 0.001,
    "dataset.name": "digits",
    "loss.name": "cross_entropy",
    "train.monitor": "auto",
}
numbers = iter(range(10**6))


def done(value: float | None, monitor: Monitor | None = ACCURACY, **settings: Any) -> Entry:
    """A run that ended; ``optim__lr=1`` sets ``optim.lr``."""
    values = BASE | {key.replace("__", "."): each for key, each in settings.items()}
    number = next(numbers)
    return Entry(
        Path(f"/runs/{number}"), "done", settings=values, monitor=monitor, value=value, ended=f"{number:06d}"
    )


def failed(**settings: Any) -> Entry:
    values = BASE | {key.replace("__", "."): each for key, each in settings.items()}
    return Entry(
        Path(f"/runs/{next(numbers)}"), "failed", settings=values, exit_code=6, reason="the loss is nan"
    )


def seeds(lr: float, *values: float, **settings: Any) -> list[Entry]:
    return [done(value, optim__lr=lr, seed=seed, **settings) for seed, value in enumerate(values, start=1)]


def said(comparison: Comparison) -> str:
    return "\n".join(finding for group in comparison.groups for finding in group.findings)


class TestRanking:
    def test_seeds_fold_into_mean_and_sample_deviation_best_first(self) -> None:
        low, high = [0.90, 0.92, 0.97], [0.95, 0.96, 0.94]
        (group,) = rank([*seeds(0.1, *low), *seeds(0.01, *high)]).groups
        assert group.columns == ("optim.lr",)
        assert [row.settings["optim.lr"] for row in group.rows] == [0.01, 0.1]
        assert [row.rank for row in group.rows] == [1, 2]
        for row, values in zip(group.rows, (high, low), strict=True):
            assert row.mean == pytest.approx(statistics.mean(values))
            assert row.deviation == pytest.approx(statistics.stdev(values))
            assert sorted(row.values) == sorted(values)
            assert row.runs[0].value == max(values)

    def test_folds_fold_like_seeds_and_their_test_is_said_to_be_too_sure(self) -> None:
        runs = [
            done(value + fold / 100, optim__lr=lr, dataset__folds=3, dataset__fold=fold, seed=seed)
            for lr, value in ((0.1, 0.5), (0.01, 0.9))
            for fold in range(3)
            for seed in (0, 1)
        ]
        (group,) = rank(runs).groups
        assert [len(row.runs) for row in group.rows] == [6, 6]
        assert group.columns == ("optim.lr",)
        assert "more than the noise of the folds" in said(rank(runs))
        assert "p is too small" in said(rank(runs))

    def test_the_direction_is_the_metric_s(self) -> None:
        (group,) = rank([done(value, LOSS, optim__lr=value) for value in (0.3, 0.1, 0.2)]).groups
        assert [row.mean for row in group.rows] == [0.1, 0.2, 0.3]

    def test_equal_means_share_a_rank_and_the_next_is_counted_on(self) -> None:
        entries = [done(value, optim__lr=lr) for lr, value in ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.7))]
        (group,) = rank(entries).groups
        assert [row.rank for row in group.rows] == [1, 1, 3, 4]
        assert "first and second are equal in val/accuracy" in said(rank(entries))

    @pytest.mark.parametrize("monitor", [ACCURACY, LOSS])
    def test_what_is_not_finite_is_last_and_has_no_rank(self, monitor: Monitor) -> None:
        values = (math.nan, 0.1, 0.5)
        (group,) = rank([done(value, monitor, optim__lr=lr) for lr, value in enumerate(values)]).groups
        assert [row.rank for row in group.rows] == [1, 2, None]
        assert group.rows[-1].settings["optim.lr"] == 0
        (folded,) = rank([*seeds(0.1, 0.9, math.nan), *seeds(0.2, 0.1, 0.1)]).groups
        assert [row.settings["optim.lr"] for row in folded.rows] == [0.2, 0.1]

    def test_failed_waiting_and_unmeasured_runs_are_listed_with_the_reason(self) -> None:
        comparison = rank(
            [
                done(0.9),
                failed(optim__lr=1e30),
                done(None, optim__lr=2.0),
                Entry(Path("/runs/r"), "running", settings=BASE | {"train.epochs": 9}, step=40, epoch=2),
                Entry(Path("/runs/w"), "waiting", settings=BASE),
            ]
        )
        assert [len(group.rows) for group in comparison.groups] == [1]
        why = {other.entry.state: [] for other in comparison.others}
        for other in comparison.others:
            why[other.entry.state].append(other.why)
        assert why == {
            "failed": ["the loss is nan"],
            "done": ["val/accuracy was never computed"],
            "running": ["epoch 2/9, step 40"],
            "waiting": [""],
        }
        assert "lr=1e+30" in comparison.others[0].label

    def test_other_metrics_and_data_are_other_tables(self) -> None:
        comparison = rank(
            [
                done(0.9, optim__lr=1.0),
                done(0.8, optim__lr=2.0),
                done(0.2, LOSS),
                done(0.95, dataset__name="mnist"),
            ]
        )
        assert [group.about for group in comparison.groups] == [
            "val/accuracy of dataset digits",
            "val/loss of dataset digits under loss cross_entropy",
            "val/accuracy of dataset mnist",
        ]
        assert any("cannot be ranked together" in note for note in comparison.notes)

    def test_losses_under_different_criteria_are_not_ranked_together(self) -> None:
        runs = [done(0.2, LOSS, loss__name="mse"), done(0.3, LOSS, loss__name="l1")]
        assert len(rank(runs).groups) == 2
        runs = [done(0.2, loss__name="mse"), done(0.3, loss__name="l1")]
        assert len(rank(runs).groups) == 1


class TestSettings:
    def test_what_does_not_decide_the_result_is_no_column(self) -> None:
        beside = {"display__mode": "none", "name": "a", "checkpoint__keep_last": 3, "tracker": ["csv"]}
        (group,) = rank([done(0.9, seed=1), done(0.8, seed=2, **beside)]).groups
        assert group.columns == ()
        assert len(group.rows) == 1
        assert len(group.rows[0].values) == 2

    def test_the_split_s_seed_is_a_setting_and_its_examples_are_others(self) -> None:
        runs = [done(0.9, dataset__split_seed=1), done(0.8, dataset__split_seed=2)]
        (group,) = rank(runs).groups
        assert group.columns == ("dataset.split_seed",)
        assert len(group.rows) == 2
        assert "the validation samples are not all the same" in said(rank(runs))

    @pytest.mark.parametrize("key", ["sampling", "label_noise", "mixup"])
    def test_what_changes_training_samples_only_is_a_setting_on_the_same_validation_samples(
        self, key
    ) -> None:
        runs = [done(0.9, **{f"dataset__{key}": 0.1}), done(0.8, **{f"dataset__{key}": 0.2})]
        (group,) = rank(runs).groups
        assert group.columns == (f"dataset.{key}",)
        assert "the validation samples are not all the same" not in said(rank(runs))

    def test_an_argument_that_is_not_given_is_its_default(self) -> None:
        given, left_out = done(0.9, model__dropout=0.0, seed=1), done(0.8, seed=2)
        assert setting(left_out, "model.dropout") == 0.0
        (group,) = rank([given, left_out]).groups
        assert len(group.rows) == 1

    def test_an_argument_of_another_component_is_absent(self) -> None:
        linear = done(0.8)
        linear = Entry(
            linear.directory,
            "done",
            settings={key: each for key, each in BASE.items() if key != "model.hidden"}
            | {"model.name": "linear"},
            monitor=ACCURACY,
            value=0.8,
        )
        (group,) = rank([done(0.9), linear]).groups
        assert group.columns == ("model.name", "model.hidden")
        assert group.rows[1].settings["model.hidden"] is ABSENT

    def test_one_number_written_in_two_ways_is_one_setting(self) -> None:
        (group,) = rank([done(0.9, optim__lr=1, seed=1), done(0.8, optim__lr=1.0, seed=2)]).groups
        assert len(group.rows) == 1
        (group,) = rank([done(0.9, model__bias=True), done(0.8, model__bias=1)]).groups
        assert len(group.rows) == 2

    def test_keys_are_as_people_type_them(self) -> None:
        assert [short(key) for key in ("optim.lr", "model.name", "model.hidden", "train.epochs")] == [
            "lr",
            "model",
            "model.hidden",
            "epochs",
        ]

    def test_the_same_settings_and_seed_twice_are_one_measurement_the_newest(self) -> None:
        comparison = rank([done(0.5, seed=1), done(0.9, seed=2), done(0.7, seed=1)])
        (row,) = comparison.groups[0].rows
        assert sorted(row.values) == [0.7, 0.9]
        assert any("1 run repeat" in note for note in comparison.notes)

    def test_a_seed_that_failed_is_counted_unless_it_was_tried_again(self) -> None:
        runs = [*seeds(0.1, 0.9, 0.8), failed(optim__lr=0.1, seed=3), failed(optim__lr=0.1, seed=1)]
        comparison = rank([*runs, failed(optim__lr=9.0, seed=4)])
        (row,) = comparison.groups[0].rows
        assert row.unfinished == 1
        assert "had seeds that did not end" in said(comparison)


class TestNoise:
    def test_a_clear_difference_is_called_one_with_the_numbers_of_welch_s_test(self) -> None:
        high, low = [0.95, 0.96, 0.94], [0.90, 0.91, 0.92]
        comparison = rank([*seeds(0.1, *low), *seeds(0.01, *high)])
        expected = stats.ttest_ind(high, low, equal_var=False)
        (group,) = comparison.groups
        assert group.rows[1].p == pytest.approx(expected.pvalue)
        assert group.rows[1].p_holm == pytest.approx(expected.pvalue)
        assert group.findings == (
            "first and second differ by 0.0400 in val/accuracy, more than the noise of the seeds (Welch's "
            f"t-test: p = {expected.pvalue:.2g}, t = {expected.statistic:.2f}, df = {expected.df:.1f}, "
            "n = 3 and 3)",
        )

    def test_a_small_difference_is_within_the_noise(self) -> None:
        text = said(rank([*seeds(0.1, 0.90, 0.94, 0.92), *seeds(0.01, 0.91, 0.95, 0.93)]))
        assert "within the noise of the seeds" in text
        assert "more than the noise" not in text

    def test_the_best_of_many_has_to_be_clearer(self) -> None:
        high, low = [0.95, 0.96, 0.94], [0.93, 0.92, 0.925]
        others = [run for lr in range(2, 12) for run in seeds(lr, 0.915, 0.93, 0.92)]
        alone = rank([*seeds(0.1, *high), *seeds(0.2, *low)])
        assert "more than the noise of the seeds (" in said(alone)
        many = rank([*seeds(0.1, *high), *seeds(0.2, *low), *others])
        text = said(many)
        assert "picked as the best of 12" in text
        assert "12 settings were compared, and the best of many is also the luckiest" in text
        rows = many.groups[0].rows
        p = [stats.ttest_ind(rows[0].values, row.values, equal_var=False).pvalue for row in rows[1:]]
        assert [row.p for row in rows[1:]] == pytest.approx(p)
        assert rows[1].p_holm >= rows[1].p
        alike = sum(row.p_holm >= 0.05 for row in rows[1:])
        assert f"{alike} of 11 others do not differ from it significantly" in text

    @pytest.mark.parametrize(
        ("corrected", "expected"),
        [
            ([0.5, 0.01], "; 1 of 2 others do not differ from it significantly"),
            ([0.01, 0.01], "; all 2 others tested differ from it significantly"),
            ([0.01], "; the other that was tested differs from it significantly"),
            ([], "with new seeds"),
        ],
    )
    def test_how_many_are_as_good_as_the_best(self, corrected: list[float], expected: str) -> None:
        assert expected in describe_best_of(3, corrected)

    @pytest.mark.parametrize(
        ("first", "second", "who"),
        [
            ((0.9,), (0.8,), "both have only one"),
            ((0.9,), (0.8, 0.7), "the first has only one"),
            ((0.9, 0.8), (0.1,), "the second has only one"),
        ],
    )
    def test_one_seed_cannot_tell_and_says_how_to_find_out(
        self, first: tuple[float, ...], second: tuple[float, ...], who: str
    ) -> None:
        text = said(rank([*seeds(0.1, *first), *seeds(0.2, *second)]))
        assert who in text
        assert "too few seeds for a significance test" in text
        assert "seed=1,2,3" in text

    def test_seeds_that_change_nothing_are_no_noise_to_test_against(self) -> None:
        text = said(rank([*seeds(0.1, 0.9, 0.9), *seeds(0.2, 0.8, 0.8)]))
        assert "the seed changed nothing in either of them" in text
        assert "are equal" in said(rank([*seeds(0.1, 0.9, 0.9), *seeds(0.2, 0.9, 0.9)]))

    def test_one_setting_has_nothing_to_be_compared_with(self) -> None:
        assert said(rank(seeds(0.1, 0.9, 0.8))) == ""
        assert rank([]) == Comparison(())
