"""Correlations against small cases that can be counted by hand."""

from __future__ import annotations

import math

import pytest

from supertickets.errors import InputError
from supertickets.rank import combined_rank, correlate

UP = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_one_exchange_of_fifteen_pairs_costs_two_fifteenths() -> None:
    found = correlate([1.0, 2.0, 3.0, 4.0, 6.0, 5.0], UP)
    assert found.kendall.value == pytest.approx(13 / 15)
    # d = 1 twice: 1 - 6 * 2 / (6 * 35)
    assert found.spearman.value == pytest.approx(1 - 12 / 210)
    assert found.count == 6


def test_an_exchange_at_the_top_costs_the_weighted_tau_more() -> None:
    top = correlate([1.0, 2.0, 3.0, 4.0, 6.0, 5.0], UP).weighted.value
    bottom = correlate([2.0, 1.0, 3.0, 4.0, 5.0, 6.0], UP).weighted.value
    assert top < bottom < 1


def test_a_sign_of_minus_one_keeps_the_sign_and_looks_at_the_other_end() -> None:
    down = [-value for value in [1.0, 2.0, 3.0, 4.0, 6.0, 5.0]]
    up = correlate([1.0, 2.0, 3.0, 4.0, 6.0, 5.0], UP)
    found = correlate(down, UP, sign=-1)
    assert found.kendall.value == pytest.approx(-up.kendall.value)
    assert found.weighted.value == pytest.approx(-up.weighted.value)


@pytest.mark.parametrize("missing", [None, math.nan])
def test_missing_scores_are_the_worst(missing: float | None) -> None:
    assert correlate([missing, 2.0, 3.0, 4.0], UP[:4]).kendall.value == pytest.approx(1)
    assert correlate([missing, 3.0, 2.0, 1.0], UP[:4], sign=-1).kendall.value == pytest.approx(-1)


def test_the_interval_holds_the_value_and_depends_on_the_seed_alone() -> None:
    scores = [float(3 * i % 17) for i in range(40)]
    found = correlate(scores, [float(i % 7) for i in range(40)], seed=3)
    assert found.kendall.low <= found.kendall.value <= found.kendall.high
    assert correlate(scores, [float(i % 7) for i in range(40)], seed=3) == found


def test_a_constant_score_has_no_correlation() -> None:
    assert correlate([1.0] * 5, UP[:5]).as_dict()["kendall"]["value"] is None


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(InputError, match="at least 3 pairs"):
        correlate([1.0, 2.0], [1.0, 2.0])


def test_both_is_rank_of_regions_less_rank_of_kappa() -> None:
    kappa, regions = [10.0, None, 5.0], [1.0, 3.0, 2.0]
    # kappa: 5 best (3), 10 (2), missing (1); regions: 1, 3, 2
    assert combined_rank([(kappa, -1), (regions, 1)]) == [3.0, 4.0, 5.0]
