"""Rank correlations with bootstrap intervals, and the combination of rankings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import InputError

_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic with the ends of its 95 % bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """Give plain values; NaN becomes ``None``."""
        return {k: v if math.isfinite(v) else None for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Correlation:
    """Three rank correlations of one score with one accuracy.

    Attributes:
        count: Architectures behind them.
        kendall: Kendall's tau-b.
        spearman: Spearman's rho.
        weighted: Weighted tau (Vigna 2015), which counts exchanges near the top for more.
    """

    count: int
    kendall: Estimate
    spearman: Estimate
    weighted: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Give plain values."""
        names = ("kendall", "spearman", "weighted")
        return {"count": self.count, **{name: getattr(self, name).as_dict() for name in names}}


def correlate(
    scores: Sequence[float | None],
    accuracies: Sequence[float],
    *,
    sign: int = 1,
    bootstrap: int = 300,
    seed: int = 0,
) -> Correlation:
    """Compare a score with an accuracy.

    Args:
        scores: ``None`` and NaN are the worst of all and equal among each other.
        accuracies: In the same order.
        sign: 1 where a larger score is better, -1 where a smaller one is; decides where the worst
            stand and what the weighted tau takes for the top. Kendall and Spearman keep the sign of
            the score as given.
        bootstrap: Samples behind an interval.
        seed: Decides the samples.

    Raises:
        InputError: Fewer than 3 pairs, or lengths that differ.
    """
    from scipy.stats import kendalltau, spearmanr, weightedtau

    if len(scores) != len(accuracies) or len(scores) < 3:
        raise InputError(
            "correlation: expected at least 3 pairs of score and accuracy, got "
            f"{len(scores)} scores and {len(accuracies)} accuracies"
        )
    x = fill_worst(scores, sign=sign)
    y = np.asarray(accuracies, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(x), size=(bootstrap, len(x)))

    def estimate(
        statistic: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    ) -> Estimate:
        def of(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
            constant = one.min() == one.max() or two.min() == two.max()
            return math.nan if constant else statistic(one, two)

        again = np.array([of(x[rows], y[rows]) for rows in drawn])
        ends = (1 - _LEVEL) / 2
        low, high = np.nanquantile(again, [ends, 1 - ends]) if np.isfinite(again).any() else (
            math.nan,
            math.nan,
        )
        return Estimate(of(x, y), float(low), float(high))

    return Correlation(
        len(x),
        estimate(lambda one, two: float(kendalltau(one, two).statistic)),
        estimate(lambda one, two: float(spearmanr(one, two).statistic)),
        estimate(lambda one, two: sign * float(weightedtau(sign * one, two).statistic)),
    )


def fill_worst(scores: Sequence[float | None], *, sign: int) -> NDArray[np.float64]:
    """Turn missing scores into one that is worse than every other.

    Args:
        scores: ``None``, NaN and the infinity of the bad side count as missing.
        sign: 1 where a larger score is better, else -1.

    Returns:
        Ranks from 0, equal scores sharing the lowest: the same order, and always finite.
    """
    from scipy.stats import rankdata

    worst = -sign * math.inf
    values = [worst if s is None or math.isnan(s) else s for s in scores]
    return np.asarray(rankdata(values, method="min"), dtype=np.float64) - 1


def combined_rank(
    columns: Sequence[tuple[Sequence[float | None], int]],
) -> list[float]:
    """Add the ranks that several scores give the same architectures.

    Args:
        columns: Scores with their signs, see :func:`correlate`.

    Returns:
        Larger is better; for kappa and R it is ``rank(R) - rank(kappa)`` up to a constant.
    """
    from scipy.stats import rankdata

    total = np.zeros(len(columns[0][0]))
    for scores, sign in columns:
        total += rankdata(sign * fill_worst(scores, sign=sign))
    return [float(value) for value in total]
