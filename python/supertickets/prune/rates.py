"""How much of each layer is removed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from supertickets.errors import InputError, did_you_mean
from supertickets.prune.layers import MaskableLayer, check_weights
from supertickets_ext import global_topk_mask

RateKind: TypeAlias = Literal["l1", "uniform", "erk"]


def layer_rates(
    layers: Mapping[str, MaskableLayer], sparsity: float, kind: RateKind = "l1"
) -> dict[str, float]:
    """Share the sparsity out over the layers.

    ``l1`` removes the globally smallest magnitudes and takes each layer's share of them; of equal
    magnitudes the earlier layer's, and there the lower flat index, is kept. ``uniform`` gives
    every layer the same rate. ``erk`` makes a layer's density proportional to the sum of its
    weight's extents over their product; densities are capped at 1, and what a capped layer
    cannot take goes to the others.

    Args:
        layers: As from :func:`supertickets.prune.maskable_layers`.
        sparsity: Fraction of all these layers' weights to remove, in ``[0, 1)``.
        kind: ``"l1"``, ``"uniform"`` or ``"erk"``.

    Returns:
        The removed fraction of each layer, in ``[0, 1)``. With ``l1`` and ``erk`` they are exact
        ratios of whole numbers whose sum is ``pruned_count(sparsity, total)``.

    Raises:
        InputError: The sparsity or kind is invalid, a weight is not finite, or a layer would lose
            every weight.
    Source: Lottery Jackpots (l1, uniform); Evci et al. 2020, section 3 (Erdos-Renyi kernel).
    """
    check_sparsity(sparsity)
    if kind not in get_args(RateKind):
        raise InputError(f"unknown rates {kind!r}{did_you_mean(str(kind), get_args(RateKind))}")
    check_weights(layers)
    if kind == "uniform":
        rates = {name: float(sparsity) for name in layers}
    else:
        pruned = _l1_counts(layers, sparsity) if kind == "l1" else _erk_counts(layers, sparsity)
        rates = {name: count / layers[name].weight.numel() for name, count in pruned.items()}
    for name, layer in layers.items():
        if pruned_count(rates[name], layer.weight.numel()) >= layer.weight.numel():
            raise InputError(
                f"layer {name!r} would lose all its {layer.weight.numel()} weights at sparsity "
                f"{sparsity} with rates {kind!r}; lower the sparsity, keep the layer dense, or "
                "use rates 'erk' or 'uniform'"
            )
    return rates


def check_sparsity(sparsity: float) -> None:
    """Refuse a sparsity outside ``[0, 1)``.

    Args:
        sparsity: Fraction of weights to remove.

    Raises:
        InputError: It is out of range or NaN.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must be in [0, 1), got {sparsity}")


def pruned_count(rate: float, weights: int) -> int:
    """Count the weights that ``rate`` removes: ``floor(rate * weights)``.

    Args:
        rate: Removed fraction, in ``[0, 1]``.
        weights: Number of weights.

    Returns:
        The floor of the exact product: ``0.29 * 100``, which floating point puts below 29, gives
        29, and ``count / weights`` always gives ``count`` back.
    """
    # Four units in the last place are more than one rounded ratio and one product can lose.
    return min(weights, math.floor(rate * weights * (1 + 4 * 2.0**-52)))


def keep_counts(layers: Mapping[str, MaskableLayer], rates: Mapping[str, float]) -> dict[str, int]:
    """Count the weights that each layer keeps.

    Args:
        layers: The layers by name.
        rates: The removed fraction of each.

    Returns:
        ``numel - floor(rate * numel)`` by name.
    """
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    return {name: size - pruned_count(rates[name], size) for name, size in sizes.items()}


def _l1_counts(layers: Mapping[str, MaskableLayer], sparsity: float) -> dict[str, int]:
    weights = [layer.weight.detach() for layer in layers.values()]
    total = sum(weight.numel() for weight in weights)
    masks = global_topk_mask(weights, total - pruned_count(sparsity, total), by_magnitude=True)
    return {name: mask.numel() - int(mask.sum()) for name, mask in zip(layers, masks, strict=True)}


def _erk_counts(layers: Mapping[str, MaskableLayer], sparsity: float) -> dict[str, int]:
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    total = sum(sizes.values())
    budget = total - pruned_count(sparsity, total)
    raw = {name: float(sum(layer.weight.shape)) for name, layer in layers.items()}
    kept: dict[str, float] = {}
    free = set(raw)
    # Every round caps at least one layer, so there are at most as many rounds as layers.
    while free:
        left = budget - sum(kept.values())
        scale = left / sum(raw[name] for name in free)
        capped = {name for name in free if scale * raw[name] >= sizes[name]}
        if not capped:
            kept.update({name: scale * raw[name] for name in free})
            break
        kept.update({name: float(sizes[name]) for name in capped})
        free -= capped
    return {name: sizes[name] - count for name, count in _whole(kept, sizes, budget).items()}


def _whole(kept: Mapping[str, float], sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """Round down, then give the rest to the largest remainders, in the layers' order if equal."""
    counts = {name: min(math.floor(kept[name]), sizes[name]) for name in sizes}
    by_remainder = sorted(sizes, key=lambda name: counts[name] - kept[name])
    missing = budget - sum(counts.values())
    for name in by_remainder[:missing]:
        counts[name] += 1
    return counts
