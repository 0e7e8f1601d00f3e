"""The rank rule against hand-computed ranks, sums and removals."""

from __future__ import annotations

import math

import pytest

from supertickets.rank import rule


def test_changes_are_relative_and_rounded_to_three_decimals() -> None:
    assert rule.kappa_change(300.0, 200.1) == 0.333
    assert rule.kappa_change(200.0, 300.02) == -0.5
    assert rule.regions_change(700.0, 699.0) == 0.001
    assert rule.regions_change(714.0, 1730.0) == -1.423


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_deficient_kernel_is_the_worst_there_is(bad: float | None) -> None:
    assert rule.kappa_change(100.0, bad) == -math.inf
    assert rule.kappa_change(bad, 100.0) == 1.0
    assert rule.kappa_change(bad, bad) == 0.0


@pytest.mark.parametrize("bad", [None, math.nan])
def test_missing_regions_count_as_none_at_all(bad: float | None) -> None:
    assert rule.regions_change(100.0, bad) == 1.0
    assert rule.regions_change(bad, 100.0) == -math.inf
    assert rule.regions_change(bad, bad) == 0.0


def test_equal_means_compare_as_equal_however_they_came_about() -> None:
    assert sum([0.1, 0.2, 0.3]) / 3 != sum([0.3, 0.2, 0.1]) / 3
    assert rule.mean_change([0.1, 0.2, 0.3]) == rule.mean_change([0.3, 0.2, 0.1])
    assert rule.mean_change([0.1, 0.1, 0.1]) == rule.mean_change([0.0, 0.1, 0.2])
    assert rule.mean_change([0.5, -math.inf]) == -math.inf


def test_dense_ranks_share_and_leave_no_gap() -> None:
    values = {"a": 0.3, "b": -0.1, "c": 0.3, "d": 0.0}
    assert rule.dense_ranks(values, descending=True) == {"a": 0, "c": 0, "d": 1, "b": 2}
    assert rule.dense_ranks(values, descending=False) == {"b": 0, "d": 1, "a": 2, "c": 2}


def test_nan_and_infinity_take_the_last_ranks() -> None:
    values = {"a": math.nan, "b": 1.0, "c": -math.inf, "d": math.nan}
    assert rule.dense_ranks(values, descending=True) == {"b": 0, "c": 1, "a": 2, "d": 2}


# Two edges of three operations. By kappa, descending: .5 | .2 .2 | 0 | -.1 | -inf -> 0 1 1 2 3 4;
# by regions, ascending: -.3 | 0 0 | .1 | .4 | 1 -> 0 1 1 2 3 4.
PLACES = [(edge, name) for edge in (0, 1) for name in ("skip", "conv", "pool")]
KAPPA = dict(zip(PLACES, (0.2, -0.1, 0.5, 0.2, -math.inf, 0.0), strict=True))
REGIONS = dict(zip(PLACES, (0.0, 0.4, -0.3, 0.0, 1.0, 0.1), strict=True))


def test_rank_sums_go_over_all_operations_together() -> None:
    sums = rule.rank_sums(KAPPA, REGIONS)
    assert [sums[place] for place in PLACES] == [2, 6, 0, 2, 8, 4]


def test_each_open_edge_loses_its_lowest_sums() -> None:
    sums = rule.rank_sums(KAPPA, REGIONS)
    assert rule.removals(sums, 1) == {(0, "pool"), (1, "skip")}
    assert rule.removals(sums, 2) == {(0, "pool"), (0, "skip"), (1, "skip"), (1, "pool")}


def test_the_last_operation_of_an_edge_stays() -> None:
    assert rule.removals(rule.rank_sums(KAPPA, REGIONS), 99) == set(PLACES) - {
        (0, "conv"),
        (1, "conv"),
    }


def test_of_equal_sums_the_earlier_operation_leaves() -> None:
    sums = {(0, "skip"): 3, (0, "conv"): 3, (0, "pool"): 5}
    assert rule.removals(sums, 1) == {(0, "skip")}


def test_a_node_keeps_its_highest_sums() -> None:
    assert rule.kept_edges({2: 5, 3: 1, 4: 7}, 2) == {2, 4}
    assert rule.kept_edges({2: 5, 3: 5, 4: 7}, 2) == {3, 4}
    assert rule.kept_edges({2: 5}, 2) == {2}
