"""Scores of architectures, the baselines beside them, and their agreement with a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from supertickets.rank.combined import COMBINED, combined_score, needed_indicators
from supertickets.rank.cost import Size, sizes
from supertickets.rank.indicators import get_indicator
from supertickets.rank.probe import INDICATORS
from supertickets.rank.scorer import Scorer, Scores
from supertickets.rank.search import scores_as_dict
from supertickets.rank.statistics import combined_rank, correlate
from supertickets.spaces import Candidate, cell_space
from supertickets.training import progress_bar

BOTH = "both"
ALL = "all"
BASELINES = ("parameters", "macs")
_DRAW = "score"


@dataclass(frozen=True)
class Ranking:
    """Architectures with their scores, in the order in which they were given.

    Attributes:
        candidates: The architectures.
        scores: Of each.
        sizes: Of their evaluation networks.
        indicators: What was measured.
    """

    candidates: tuple[Candidate, ...]
    scores: tuple[Scores, ...]
    sizes: tuple[Size, ...]
    indicators: tuple[str, ...]

    def values(self, name: str) -> list[float | None]:
        """Give one number per architecture; ``None`` where there is none.

        Args:
            name: One of :attr:`columns`. An indicator: the mean of its repeats; one repeat without
                a value makes an architecture the worst. ``both``: the sum of the ranks by kappa and
                by regions. ``all``: the sum of the ranks by every indicator measured.
                ``combined``: the rule of :mod:`supertickets.rank.combined`. ``parameters`` and
                ``macs`` are the baselines.
        """
        if name in BASELINES:
            return [float(getattr(size, name)) for size in self.sizes]
        if name in (BOTH, ALL):
            parts = INDICATORS if name == BOTH else self.indicators
            return list(combined_rank([(self.values(part), sign_of(part)) for part in parts]))
        if name == COMBINED:
            needed = (*needed_indicators(), *BASELINES)
            return list(combined_score({part: self.values(part) for part in needed}))
        found = []
        for one in self.scores:
            values = one.values(name)
            known = [value for value in values if value is not None]
            found.append(math.fsum(known) / len(known) if len(known) == len(values) else None)
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """Every name that :meth:`values` takes here."""
        joined = []
        if set(INDICATORS) <= set(self.indicators):
            joined.append(BOTH)
        if len(self.indicators) > 1 and set(self.indicators) != set(INDICATORS):
            joined.append(ALL)
        if self.indicators and set(needed_indicators()) <= set(self.indicators):
            joined.append(COMBINED)
        return (*self.indicators, *joined, *BASELINES)

    @property
    def decides(self) -> str:
        """What orders the architectures: the widest joined ranking, or the one indicator."""
        joined = [name for name in (COMBINED, ALL, BOTH) if name in self.columns]
        return joined[0] if joined else self.columns[0]

    def rows(self) -> list[dict[str, Any]]:
        """Give plain values, the best first by :attr:`decides`, with the baselines' ranks."""
        order = combined_rank([(self.values(self.decides), sign_of(self.decides))])
        rows = [
            {
                "arch": cell_space(candidate.space).format(candidate),
                "scores": scores_as_dict(scores),
                "rank_sum": order[index],
                "parameters": size.parameters,
                "macs": size.macs,
            }
            for index, (candidate, scores, size) in enumerate(
                zip(self.candidates, self.scores, self.sizes, strict=True)
            )
        ]
        return sorted(rows, key=lambda row: -row["rank_sum"])


def sign_of(column: str) -> int:
    """Give 1 where more is better, -1 where less is; joined ranks and baselines are the first."""
    return 1 if column in (BOTH, ALL, COMBINED, *BASELINES) else get_indicator(column).sign


def rank_candidates(
    candidates: Sequence[Candidate],
    scorer: Scorer,
    *,
    indicators: Sequence[str] = INDICATORS,
    progress: bool = True,
) -> Ranking:
    """Score single paths, each in a network of its own, all under one draw of images.

    Args:
        candidates: Single paths of one space.
        scorer: Scores them; what its store holds is not measured again.
        indicators: What to measure: registered names, or ``module:name``.
        progress: Whether a bar may be drawn.
    """
    names = tuple(dict.fromkeys(get_indicator(name).name for name in indicators))
    with progress_bar("score", len(candidates), enabled=progress) as bar:
        scores = scorer.score(_DRAW, candidates, bar=bar, indicators=names)
    return Ranking(tuple(candidates), tuple(scores), tuple(sizes(candidates)), names)


def correlation_figures(
    ranking: Ranking,
    accuracies: dict[str, Sequence[float]],
    *,
    bootstrap: int = 300,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Compare every score of a ranking, and its baselines, with accuracies.

    Args:
        ranking: The scores.
        accuracies: By name, in the order of the ranking.
        bootstrap: Samples behind an interval.
        seed: Decides the samples.

    Returns:
        By accuracy, then by score: see :meth:`Correlation.as_dict`.
    """
    return {
        name: {
            column: correlate(
                ranking.values(column),
                list(values),
                sign=sign_of(column),
                bootstrap=bootstrap,
                seed=seed,
            ).as_dict()
            for column in ranking.columns
        }
        for name, values in accuracies.items()
    }
