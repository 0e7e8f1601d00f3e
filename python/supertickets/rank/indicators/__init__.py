"""Training-free indicators: numbers read off a network at its initialisation."""

from __future__ import annotations

from supertickets.rank.indicators import (
    activations,
    inputs,
    size,
    weights,
)
from supertickets.rank.indicators.registry import (
    Indicator,
    Score,
    get_indicator,
    indicator,
    indicator_names,
)

__all__ = [
    "Indicator",
    "Score",
    "get_indicator",
    "indicator",
    "indicator_names",
]
