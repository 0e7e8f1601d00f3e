"""Masks by magnitude and by chance, and how far two masks agree."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from supertickets.errors import InputError
from supertickets.prune.layers import MaskableLayer, check_weights
from supertickets.prune.rates import keep_counts
from supertickets.seeds import generator
from supertickets_ext import topk_mask


def magnitude_masks(
    layers: Mapping[str, MaskableLayer], rates: Mapping[str, float]
) -> dict[str, Tensor]:
    """Keep each layer's largest magnitudes.

    Args:
        layers: As from :func:`supertickets.prune.maskable_layers`.
        rates: The removed fraction of each layer.

    Returns:
        Bool masks by name with exactly ``floor(rate * numel)`` zeros; ties go to the lowest index.

    Raises:
        InputError: A weight is not finite.
    """
    check_weights(layers)
    keep = keep_counts(layers, rates)
    return {
        name: topk_mask(layer.weight.detach(), keep[name], by_magnitude=True)
        for name, layer in layers.items()
    }


def random_masks(
    layers: Mapping[str, MaskableLayer], rates: Mapping[str, float], *, seed: int
) -> dict[str, Tensor]:
    """Keep weights by chance, as many in each layer as its rate leaves.

    Args:
        layers: As from :func:`supertickets.prune.maskable_layers`.
        rates: The removed fraction of each layer.
        seed: The same seed gives the same masks on every device.

    Returns:
        Bool masks by name with exactly ``floor(rate * numel)`` zeros.
    """
    keep = keep_counts(layers, rates)
    masks = {}
    for name, layer in layers.items():
        draw = generator(seed, "random-mask", name)
        order = torch.randperm(layer.weight.numel(), generator=draw)
        mask = torch.zeros(layer.weight.numel(), dtype=torch.bool)
        mask[order[: keep[name]]] = True
        masks[name] = mask.reshape(layer.weight.shape).to(layer.weight.device)
    return masks


def overlap(mask: Tensor, other: Tensor) -> float:
    """Give the share of ``mask``'s ones that ``other`` has too.

    Args:
        mask: Bool ``[*]`` with at least one one.
        other: Bool ``[*]``.

    Returns:
        ``|mask & other| / |mask|``. By chance it is the density of ``other``.

    Raises:
        InputError: The shapes differ, or ``mask`` keeps nothing.
    """
    if mask.shape != other.shape:
        raise InputError(
            f"overlap: expected equal shapes, got {tuple(mask.shape)} and {tuple(other.shape)}"
        )
    ones = int(mask.sum())
    if not ones:
        raise InputError("overlap: expected a mask that keeps something, got one without ones")
    return int((mask & other).sum()) / ones


def total_overlap(masks: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """Give the overlap over all layers together.

    Args:
        masks: Bool masks by name.
        others: Masks of the same names and shapes.

    Returns:
        Common ones over ones of ``masks``.
    """
    common = sum(int((mask & others[name]).sum()) for name, mask in masks.items())
    return common / sum(int(mask.sum()) for mask in masks.values())


def expected_overlap(masks: Mapping[str, Tensor]) -> float:
    """Give the overlap that random masks of equal rates would have on average.

    Args:
        masks: Bool masks by name.

    Returns:
        ``sum(kept_l * density_l) / sum(kept_l)``.
    """
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    common = sum(kept[name] ** 2 / mask.numel() for name, mask in masks.items())
    return common / sum(kept.values())
