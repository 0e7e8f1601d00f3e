"""Scores of a list of architectures, the baselines beside them, and their agreement with a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from supertickets.rank.cost import Size, sizes
from supertickets.rank.probe import INDICATORS, KAPPA, REGIONS, SIGNS
from supertickets.rank.scorer import Scorer, Scores
from supertickets.rank.search import scores_as_dict
from supertickets.rank.statistics import combined_rank, correlate
from supertickets.spaces import Candidate, cell_space
from supertickets.training import progress_bar

BOTH = "both"
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
            name: ``kappa`` (as log10), ``regions``, ``parameters``, ``macs``, or ``both``: the sum
                of the ranks by kappa and by regions.
        """
        if name == KAPPA:
            return [_log_kappa(one) for one in self.scores]
        if name == REGIONS:
            return [scores_as_dict(one)["regions_mean"] for one in self.scores]
        if name == BOTH:
            columns = [(self.values(part), SIGNS[part]) for part in INDICATORS]
            return list(combined_rank(columns))
        return [float(getattr(size, name)) for size in self.sizes]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every name that :meth:`values` takes here."""
        both = (BOTH,) if set(INDICATORS) <= set(self.indicators) else ()
        return (*self.indicators, *both, "parameters", "macs")

    def rows(self) -> list[dict[str, Any]]:
        """Give plain values, the best first: by both ranks, or by the one score."""
        key = BOTH if BOTH in self.columns else self.columns[0]
        sign = SIGNS.get(key, 1)
        order = combined_rank([(self.values(key), sign)])
        rows = [
            {
                "arch": cell_space(candidate.space).format(candidate),
                **{k: v for k, v in scores_as_dict(scores).items() if _kept(k, self.indicators)},
                "rank_sum": order[index],
                "parameters": size.parameters,
                "macs": size.macs,
            }
            for index, (candidate, scores, size) in enumerate(
                zip(self.candidates, self.scores, self.sizes, strict=True)
            )
        ]
        return sorted(rows, key=lambda row: -row["rank_sum"])


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
        indicators: What to measure.
        progress: Whether a bar may be drawn.
    """
    with progress_bar("score", len(candidates), enabled=progress) as bar:
        scores = scorer.score(_DRAW, candidates, bar=bar, indicators=indicators)
    return Ranking(tuple(candidates), tuple(scores), tuple(sizes(candidates)), tuple(indicators))


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
                sign=SIGNS.get(column, 1),
                bootstrap=bootstrap,
                seed=seed,
            ).as_dict()
            for column in ranking.columns
        }
        for name, values in accuracies.items()
    }


def _log_kappa(scores: Scores) -> float | None:
    """Average log10 of kappa; one deficient repeat makes the architecture the worst."""
    values = [one.value for one in scores.kappa]
    if not values or any(value is None for value in values):
        return None
    return math.fsum(math.log10(value) for value in values if value) / len(values)


def _kept(key: str, indicators: Sequence[str]) -> bool:
    owner = {"rank_deficient": KAPPA, "saturated": REGIONS}.get(key, key.split("_")[0])
    return owner in indicators
