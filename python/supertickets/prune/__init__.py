"""Masks for trained networks: by magnitude, by chance, and by search with frozen weights."""

from __future__ import annotations

from supertickets.prune.compare import comparison_rows, find_random_start
from supertickets.prune.config import JackpotConfig
from supertickets.prune.find import find_jackpot, frozen_sha256
from supertickets.prune.layers import check_masks, check_weights, mask_model, maskable_layers
from supertickets.prune.masks import (
    expected_overlap,
    magnitude_masks,
    overlap,
    random_masks,
    total_overlap,
)
from supertickets.prune.one_call import jackpot
from supertickets.prune.rates import RateKind, keep_counts, layer_rates, pruned_count
from supertickets.prune.result import Jackpot

__all__ = [
    "Jackpot",
    "JackpotConfig",
    "RateKind",
    "check_masks",
    "check_weights",
    "comparison_rows",
    "expected_overlap",
    "find_jackpot",
    "find_random_start",
    "frozen_sha256",
    "jackpot",
    "keep_counts",
    "layer_rates",
    "magnitude_masks",
    "mask_model",
    "maskable_layers",
    "overlap",
    "pruned_count",
    "random_masks",
    "total_overlap",
]
