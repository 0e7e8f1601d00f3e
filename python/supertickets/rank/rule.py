"""The rank rule of TE-NAS: relative changes, dense ranks, rank sums, and what is removed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key")

CHANGE_DECIMALS = 3
_EQUAL_DECIMALS = 9  # means of rounded changes that differ by less are one value


def kappa_change(before: float | None, after: float | None) -> float:
    """Give ``(before - after) / before`` of a condition number, rounded to 3 decimals.

    Args:
        before: With the operation; ``None``, NaN or infinity: the kernel was rank-deficient, which
            is worse than any number.
        after: Without it; the same.

    Returns:
        Larger is better; ``-inf`` where the removal makes the kernel deficient, 1 (the limit)
        where it mends one, 0 where both are deficient.
    """
    one, two = _or_infinity(before), _or_infinity(after)
    if math.isinf(one):
        return 0.0 if math.isinf(two) else 1.0
    return -math.inf if math.isinf(two) else round((one - two) / one, CHANGE_DECIMALS)


def regions_change(before: float | None, after: float | None) -> float:
    """Give ``(before - after) / before`` of a count of regions, rounded to 3 decimals.

    Args:
        before: With the operation; ``None`` or NaN counts as no region at all.
        after: Without it; the same.

    Returns:
        Smaller is better; ``-inf`` where the removal brings regions back after none.
    """
    one, two = _or_zero(before), _or_zero(after)
    if one == 0:
        return 0.0 if two == 0 else -math.inf
    return round((one - two) / one, CHANGE_DECIMALS)


def mean_change(changes: Sequence[float]) -> float:
    """Average the changes of the repeats, so that equal means compare as equal.

    Args:
        changes: One per repeat; ``-inf`` in one of them is the mean.
    """
    mean = math.fsum(changes) / len(changes)
    return round(mean, _EQUAL_DECIMALS) if math.isfinite(mean) else mean


def dense_ranks(values: Mapping[Key, float], *, descending: bool) -> dict[Key, int]:
    """Rank values from 0, without gaps; equal values share a rank.

    Args:
        values: By what is ranked; NaN takes the last rank, which it shares with other NaN.
        descending: Whether the largest value has rank 0.
    """
    known = sorted({v for v in values.values() if not math.isnan(v)}, reverse=descending)
    rank = {value: index for index, value in enumerate(known)}
    return {key: len(known) if math.isnan(v) else rank[v] for key, v in values.items()}


def rank_sums(kappa: Mapping[Key, float], regions: Mapping[Key, float]) -> dict[Key, int]:
    """Add the two ranks of every removal: rank 0 lowers kappa most, or raises the regions most.

    Args:
        kappa: Mean change of kappa by removal.
        regions: Mean change of the regions, for the same removals.

    Returns:
        Importance of what would be removed; the lowest goes first.
    """
    by_kappa = dense_ranks(kappa, descending=True)
    by_regions = dense_ranks(regions, descending=False)
    return {key: by_kappa[key] + by_regions[key] for key in kappa}


def removals(sums: Mapping[tuple[int, str], int], prune: int) -> set[tuple[int, str]]:
    """Choose what leaves every open edge: the ``prune`` lowest sums, but never its last operation.

    Args:
        sums: By edge and operation, over all live operations of the open edges, in the space's
            order; of equal sums the earlier operation leaves.
        prune: How many leave an edge.
    """
    edges: dict[int, list[tuple[int, str]]] = {}
    for place in sums:
        edges.setdefault(place[0], []).append(place)
    gone: set[tuple[int, str]] = set()
    for places in edges.values():
        gone |= set(sorted(places, key=sums.__getitem__)[: min(prune, len(places) - 1)])
    return gone


def kept_edges(sums: Mapping[int, int], keep: int) -> set[int]:
    """Choose which inputs a node keeps: the ``keep`` highest sums.

    Args:
        sums: By edge; of equal sums the later edge stays.
        keep: How many stay.
    """
    ordered = sorted(sums, key=sums.__getitem__)
    return set(ordered[len(ordered) - min(keep, len(ordered)) :])


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else value
