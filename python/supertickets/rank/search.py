"""The pruning search of TE-NAS: rounds over operations, then, where a space asks, over edges.

Source: Chen et al. 2021, arXiv 2102.11535, algorithm 1. Two faults of the published code are
mended: in the edge stage both scores compare with the network as it is then, not as it was at the
start, and ties are decided by equal means, not by means rounded to 3 digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from supertickets.errors import InputError
from supertickets.rank import rule
from supertickets.rank.probe import KAPPA, REGIONS
from supertickets.rank.scorer import Scorer, Scores
from supertickets.spaces import Candidate, CellSpace
from supertickets.training import ProgressBar, progress_bar

Log = Callable[[str], None]


@dataclass(frozen=True)
class Removal:
    """What a round would remove, and how that was judged.

    Attributes:
        edge: Index of the edge.
        operation: The operation; in an edge round the edge goes with it.
        scores: Of the network without it.
        kappa_change: Mean over the repeats; larger is better.
        regions_change: Mean over the repeats; smaller is better.
        rank_sum: Its importance; the lowest leaves.
        removed: Whether it left.
    """

    edge: int
    operation: str
    scores: Scores
    kappa_change: float
    regions_change: float
    rank_sum: int
    removed: bool


@dataclass(frozen=True)
class Round:
    """One decision on all open edges, or on the inputs of one node.

    Attributes:
        name: Also the name of its draw of weights and images.
        kind: What was removed.
        before: The network that the removals are compared with.
        scores: Its scores.
        removals: Every removal that was scored.
    """

    name: str
    kind: Literal["operations", "edges"]
    before: Candidate
    scores: Scores
    removals: tuple[Removal, ...]


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        path: The architecture.
        scores: Its scores, under a draw of their own.
        rounds: How it came about.
    """

    path: Candidate
    scores: Scores
    rounds: tuple[Round, ...]

    @property
    def evaluations(self) -> int:
        """Removals that were scored."""
        return sum(len(one.removals) for one in self.rounds)


def search(
    space: CellSpace,
    scorer: Scorer,
    *,
    prune: int,
    progress: bool = True,
    log: Log | None = None,
) -> Found:
    """Prune the supernet of a space to a single path.

    Args:
        space: The space.
        scorer: Scores networks; what its store holds is not measured again, so that a search that
            was killed goes on where it was, to the same result.
        prune: Operations that leave each open edge in a round.
        progress: Whether a bar may be drawn.
        log: Takes a line per round.

    Returns:
        What was found.

    Raises:
        InputError: ``prune`` is less than 1.
    """
    if prune < 1:
        raise InputError(f"rank: prune must be at least 1, got {prune}")
    start = space.everything()
    now, rounds = start, list[Round]()
    total = planned_scores(space, prune)
    with progress_bar(f"rank {space.name}", total, enabled=progress) as bar:
        while not now.is_path:
            bar.show(round=f"{len(rounds) + 1}")
            rounds.append(_operation_round(scorer, now, start, prune, len(rounds) + 1, bar))
            now = _after(rounds[-1])
            if log is not None:
                log(_line(rounds[-1]))
        for edges in _nodes(space):
            open_edges = [edge for edge in edges if now.live[edge]]
            if len(open_edges) <= (space.kept_inputs or len(open_edges)):
                continue
            bar.show(round=f"{len(rounds) + 1}")
            name = f"inputs of {space.edges[edges[0]].cell} {space.edges[edges[0]].target}"
            rounds.append(_edge_round(space, scorer, now, start, open_edges, name, bar))
            now = _after(rounds[-1])
        if space.kept_inputs is not None and log is not None:
            log(f"each node keeps {space.kept_inputs} inputs")
        (last,) = scorer.score("found", [now], built=start, bar=bar)
    return Found(now, last, tuple(rounds))


def planned_scores(space: CellSpace, prune: int) -> int:
    """Count the networks that a search scores: removals, what they are compared with, the end."""
    sizes = [len(operations) for operations in space.everything().live]
    total = 1
    while max(sizes) > 1:
        total += 1 + sum(size for size in sizes if size > 1)
        sizes = [max(1, size - prune) for size in sizes]
    if space.kept_inputs is not None:
        groups = [len(edges) for edges in _nodes(space) if len(edges) > space.kept_inputs]
        total += sum(groups) + len(groups)
    return total


def _operation_round(
    scorer: Scorer, now: Candidate, start: Candidate, prune: int, number: int, bar: ProgressBar
) -> Round:
    places = [
        (edge, operation)
        for edge, operations in enumerate(now.live)
        if len(operations) > 1
        for operation in operations
    ]
    without = [now.without(edge, operation) for edge, operation in places]
    name = f"round {number}"
    before, *after = scorer.score(name, [now, *without], built=start, bar=bar)
    kappa, regions = _changes(before, dict(zip(places, after, strict=True)))
    sums = rule.rank_sums(kappa, regions)
    gone = rule.removals(sums, prune)
    rows = tuple(
        Removal(*place, scores, kappa[place], regions[place], sums[place], place in gone)
        for place, scores in zip(places, after, strict=True)
    )
    return Round(name, "operations", now, before, rows)


def _edge_round(
    space: CellSpace,
    scorer: Scorer,
    now: Candidate,
    start: Candidate,
    edges: Sequence[int],
    name: str,
    bar: ProgressBar,
) -> Round:
    assert space.kept_inputs is not None
    without = [now.with_edge(edge, ()) for edge in edges]
    before, *after = scorer.score(name, [now, *without], built=start, bar=bar)
    kappa, regions = _changes(before, dict(zip(edges, after, strict=True)))
    sums = rule.rank_sums(kappa, regions)
    kept = rule.kept_edges(sums, space.kept_inputs)
    rows = tuple(
        Removal(
            edge, now.live[edge][0], scores, kappa[edge], regions[edge], sums[edge],
            edge not in kept,
        )
        for edge, scores in zip(edges, after, strict=True)
    )  # fmt: skip
    return Round(name, "edges", now, before, rows)


def _changes(
    before: Scores, after: dict[rule.Key, Scores]
) -> tuple[dict[rule.Key, float], dict[rule.Key, float]]:
    """Average the relative changes over the repeats."""
    kappa, regions = {}, {}
    for key, scores in after.items():
        kappa[key] = rule.mean_change(
            [
                rule.kappa_change(_raw(one), _raw(two))
                for one, two in zip(before.values(KAPPA), scores.values(KAPPA), strict=True)
            ]
        )
        regions[key] = rule.mean_change(
            [
                rule.regions_change(one, two)
                for one, two in zip(before.values(REGIONS), scores.values(REGIONS), strict=True)
            ]
        )
    return kappa, regions


def _raw(log_kappa: float | None) -> float | None:
    return None if log_kappa is None else math.exp(log_kappa)


def _after(done: Round) -> Candidate:
    now = done.before
    for row in done.removals:
        if row.removed:
            now = now.without(row.edge, row.operation)
    return now


def _nodes(space: CellSpace) -> list[list[int]]:
    """Group the edges by the node they lead to, cell by cell."""
    groups: dict[tuple[str, int], list[int]] = {}
    for index, edge in enumerate(space.edges):
        groups.setdefault((edge.cell, edge.target), []).append(index)
    return list(groups.values())


def _line(done: Round) -> str:
    gone = [row for row in done.removals if row.removed]
    return f"{done.name}: {len(done.removals)} removals scored, {len(gone)} operations removed"


def round_as_dict(done: Round, space: CellSpace) -> dict[str, Any]:
    """Give a round as plain values; a change that is not finite becomes ``None``."""
    return {
        "name": done.name,
        "kind": done.kind,
        "live": [list(operations) for operations in done.before.live],
        "scores": scores_as_dict(done.scores),
        "removals": [
            {
                "edge": str(space.edges[row.edge]),
                "operation": row.operation,
                "scores": scores_as_dict(row.scores),
                "kappa_change": row.kappa_change if math.isfinite(row.kappa_change) else None,
                "regions_change": row.regions_change if math.isfinite(row.regions_change) else None,
                "rank_sum": row.rank_sum,
                "removed": row.removed,
            }
            for row in done.removals
        ],
    }


def scores_as_dict(scores: Scores) -> dict[str, dict[str, Any]]:
    """Give, by indicator, the repeats with their mean and spread.

    Returns:
        ``values`` of the repeats, ``mean`` and ``spread`` (standard deviation) of those that there
        are, how many are ``missing``, and the ``notes`` on them. Kappa is a natural logarithm, as
        the indicator gives it: its mean is that of a geometric mean.
    """
    found = {}
    for name, repeats in scores.repeats.items():
        values = scores.values(name)
        known = [value for value in values if value is not None]
        found[name] = {
            "values": values,
            "mean": _mean(known) if known else None,
            "spread": _spread(known),
            "missing": len(values) - len(known),
            "notes": sorted({one.note for one in repeats if one.note}),
        }
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _spread(values: Sequence[float]) -> float | None:
    """Standard deviation of the repeats; one repeat has none."""
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
