"""One ranking out of several indicators, by a rule that was fixed in advance.

The rule was chosen on half of the NAS-Bench-201 cells and measured on the other half; how it does
there is in docs/te-nas.md. Ranks are summed as AZ-NAS does (Lee and Ham 2024, arXiv 2403.19232): by
their logarithms, so that a low rank in one indicator is not made good by high ones in others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from supertickets.rank.indicators import get_indicator
from supertickets.rank.statistics import fill_worst
from supertickets.seeds import generator

COMBINED = "combined"

WEIGHTS = {
    "parameters": 1.0,
    "synflow": 1.0,
    "jacob_cov": 1.0,
    "expressivity": 1.0,
    "progressivity": 1.0,
}
"""Weight of each log rank; ``parameters`` is the baseline, which costs nothing to count."""


def needed_indicators() -> tuple[str, ...]:
    """Name the indicators that the rule reads, besides the baselines."""
    return tuple(name for name in WEIGHTS if name not in ("parameters", "macs"))


def combined_score(columns: Mapping[str, Sequence[float | None]]) -> list[float]:
    """Join the ranks that the rule's indicators give the same architectures.

    Args:
        columns: By name, every indicator of the rule and the baselines; ``None`` is the worst.

    Returns:
        ``sum(weight * log(rank / count))``, rank ``count`` being the best and equal values sharing
        their mean rank; larger is better. It compares these architectures with each other only.
    """
    from scipy.stats import rankdata

    total = [0.0] * len(next(iter(columns.values())))
    for name, weight in WEIGHTS.items():
        sign = 1 if name in ("parameters", "macs") else get_indicator(name).sign
        ranks = rankdata(sign * fill_worst(columns[name], sign=sign))
        for index, rank in enumerate(ranks):
            total[index] += weight * math.log(rank / len(ranks))
    return total


def halves(count: int) -> tuple[list[int], list[int]]:
    """Cut the rows of a table into the half that rules are chosen on and the half held out.

    Args:
        count: Rows of the table.

    Returns:
        Indices of both, in the drawn order, so that the first ``n`` of each are a sample.
    """
    order = torch.randperm(count, generator=generator(0, "rank", "halves")).tolist()
    return order[: count // 2], order[count // 2 :]
