"""Straight-through mask search: scores are trained, weights stand still."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets.prune.config import JackpotConfig
from supertickets.prune.layers import MaskableLayer
from supertickets.prune.masks import magnitude_masks
from supertickets.prune.rates import keep_counts
from supertickets.seeds import generator
from supertickets_ext import topk_mask, update_topk_masks_
from supertickets_ext.nn import MaskedConv2d, MaskedLinear

MaskedLayer: TypeAlias = MaskedConv2d | MaskedLinear


def start_scores(
    layers: Mapping[str, MaskableLayer],
    rates: Mapping[str, float],
    config: JackpotConfig,
    *,
    seed: int,
    lengths: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Give the scores that a search starts from.

    With ``top`` the highest score, ``magnitude`` has two levels: ``top`` for each layer's largest
    magnitudes and ``top - gap`` for the rest. ``graded`` gives the rest
    ``top - gap * (1 - |w| / t)``, where t is the layer's smallest kept magnitude. ``random``
    spreads the scores evenly over ``(top - spread, top]``. Only differences count: ``top`` is 1
    for plain score, as published, and 0 for steps, where it costs no precision.

    Args:
        layers: The layers to mask, by name.
        rates: The removed fraction of each.
        config: Reads ``start``, ``gap``, ``spread`` and ``unit``.
        seed: For the random start; the same on every device.
        lengths: Score per step of each layer, for the unit ``steps``; ``None``: all 1.

    Returns:
        Scores by name, each of its layer's weight shape; their top-k is the first mask.
    Source: the two levels are the published code's; the others are our reading.
    """
    top = 1.0 if config.unit == "score" else 0.0
    length = dict.fromkeys(layers, 1.0) if config.unit == "score" or lengths is None else lengths
    if config.start == "random":
        draws = {name: generator(seed, "random-start", name) for name in layers}
        return {
            name: _random_scores(layer.weight, top, config.spread * length[name], draws[name])
            for name, layer in layers.items()
        }
    scores = _graded_scores if config.start == "graded" else _two_level_scores
    masks = magnitude_masks(layers, rates)
    return {
        name: scores(layer.weight.detach(), masks[name], top, config.gap * length[name])
        for name, layer in layers.items()
    }


def _random_scores(weight: Tensor, top: float, spread: float, draw: torch.Generator) -> Tensor:
    return (top - spread * torch.rand(weight.shape, generator=draw)).to(weight)


def _two_level_scores(weight: Tensor, mask: Tensor, top: float, gap: float) -> Tensor:
    return top - gap * (~mask).to(weight.dtype)


def _graded_scores(weight: Tensor, mask: Tensor, top: float, gap: float) -> Tensor:
    magnitude = weight.abs()
    threshold = magnitude[mask].min().clamp(min=torch.finfo(weight.dtype).tiny)
    kept = torch.full_like(weight, top)
    removed = top - gap * (1 - magnitude / threshold)
    # rounding must not lift a weight just below the threshold to the score of the kept ones
    below = torch.nextafter(kept, torch.full_like(weight, -torch.inf))
    return torch.where(mask, kept, removed.minimum(below))


def start_masks(
    layers: Mapping[str, MaskableLayer],
    rates: Mapping[str, float],
    scores: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Give the masks that belong to scores: each layer's top-k.

    Args:
        layers: The layers to mask, by name.
        rates: The removed fraction of each.
        scores: As from :func:`start_scores`.

    Returns:
        Bool masks by name with exactly ``floor(rate * numel)`` zeros.
    """
    keep = keep_counts(layers, rates)
    return {name: topk_mask(scores[name], keep[name], by_magnitude=False) for name in layers}


def masked_layers(model: nn.Module, names: Iterable[str]) -> dict[str, MaskedLayer]:
    """Look up masked layers.

    Args:
        model: A model from :func:`supertickets.prune.mask_model`.
        names: The layers' names.

    Returns:
        The layers by name.

    Raises:
        InputError: A name is no masked layer.
    """
    layers: dict[str, MaskedLayer] = {}
    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, (MaskedConv2d, MaskedLinear)):
            raise InputError(f"{name!r} is no masked layer but a {type(layer).__name__}")
        layers[name] = layer
    return layers


def restriction_rate(config: JackpotConfig, epoch: int) -> float:
    """Give the share of the wanted swaps that an epoch may carry out.

    Args:
        config: Reads ``restriction``, ``exponent`` and ``epochs``.
        epoch: From 0.

    Returns:
        ``(1 - epoch / epochs) ** exponent`` for the ratio restriction, otherwise 1.
    """
    if config.restriction != "ratio":
        return 1.0
    return float((1 - epoch / config.epochs) ** config.exponent)


def move_masks(
    layers: Mapping[str, MaskedLayer], keep: Mapping[str, int], config: JackpotConfig, rate: float
) -> tuple[Tensor, Tensor]:
    """Move every mask towards the exact top-k of its scores, within the restriction.

    Args:
        layers: Masked layers with scores, by name; their masks are changed in place.
        keep: Kept weights by name, as the masks have now.
        config: Reads ``restriction`` and ``cap``.
        rate: As from :func:`restriction_rate`.

    Returns:
        Wanted and done swaps, summed over the layers, as 0-dim tensors on the layers' device.
    """
    ratio = config.restriction == "ratio" and rate < 1
    update = update_topk_masks_(
        [layer.mask for layer in layers.values()],
        [score_parameter(layer) for layer in layers.values()],
        [keep[name] for name in layers],
        max_swaps=config.cap if config.restriction == "cap" else None,
        max_swap_fraction=rate if ratio else None,
        by_magnitude=False,
    )
    return update.wanted.sum(), update.grown.sum()


def score_parameter(layer: MaskedLayer) -> nn.Parameter:
    """Give a layer's scores.

    Args:
        layer: A masked layer under search.

    Returns:
        Its score parameter, of its weight's shape.

    Raises:
        InputError: It has none.
    """
    if layer.scores is None:
        raise InputError("a masked layer under search has no scores; give mask_model some")
    return layer.scores
