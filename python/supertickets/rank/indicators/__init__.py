"""Training-free indicators: numbers read off a network at its initialisation."""

from __future__ import annotations

from supertickets.rank.indicators.activations import naswot, swap
from supertickets.rank.indicators.cells import expressivity, progressivity, trainability
from supertickets.rank.indicators.inputs import jacob_cov, zen
from supertickets.rank.indicators.kernels import kappa, regions, regression_error
from supertickets.rank.indicators.registry import (
    Indicator,
    Score,
    get_indicator,
    import_indicators,
    indicator,
    indicator_names,
)
from supertickets.rank.indicators.size import macs, params
from supertickets.rank.indicators.weights import grad_norm, grasp, snip, synflow, zico

__all__ = [
    "Indicator",
    "Score",
    "expressivity",
    "get_indicator",
    "grad_norm",
    "grasp",
    "import_indicators",
    "indicator",
    "indicator_names",
    "jacob_cov",
    "kappa",
    "macs",
    "naswot",
    "params",
    "progressivity",
    "regions",
    "regression_error",
    "snip",
    "swap",
    "synflow",
    "trainability",
    "zen",
    "zico",
]
