"""Masks on the convolutions of a network whose weights go on being trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from supertickets.errors import RunError
from supertickets.masked_modules import put_masks_
from supertickets.prune import maskable_layers
from supertickets.search.schedule import keep_count
from supertickets_ext import global_topk_mask
from supertickets_ext.nn import MaskedConv2d


def prunable_names(model: nn.Module, keep_dense: Sequence[str] | None = None) -> list[str]:
    """Name the convolutions whose weights are pruned.

    Args:
        model: Dense or masked.
        keep_dense: Layers left alone; None: those that the model names in ``kept_dense``, or else
            the classifier (the last linear layer, or the last convolution).

    Raises:
        InputError: A name is no layer, or nothing is left to prune.
    """
    chosen = getattr(model, "kept_dense", "classifier") if keep_dense is None else keep_dense
    layers = maskable_layers(model, chosen)
    return [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]


def masked_convolutions_(
    model: nn.Module, keep_dense: Sequence[str] | None = None
) -> dict[str, MaskedConv2d]:
    """Put masks of ones on all prunable convolutions, and leave those alone that have one.

    Args:
        model: Changed in place; parameters are shared with what was there.
        keep_dense: As for :func:`prunable_names`.

    Returns:
        The masked layers by name, in the model's order.
    """
    names = prunable_names(model, keep_dense)
    modules = dict(model.named_modules())
    dense = [name for name in names if not isinstance(modules[name], MaskedConv2d)]
    ones = {
        f"{name}.weight": torch.ones_like(modules[name].get_parameter("weight"), dtype=torch.bool)
        for name in dense
    }
    put_masks_(model, ones)
    found: dict[str, MaskedConv2d] = {}
    for name, module in model.named_modules():
        if name in names and isinstance(module, MaskedConv2d):
            found[name] = module
    return found


def density(layers: Mapping[str, MaskedConv2d]) -> float:
    """Give the kept share of all weights of the layers together."""
    weights = sum(layer.weight.numel() for layer in layers.values())
    return sum(int(layer.mask.sum()) for layer in layers.values()) / max(weights, 1)


def magnitude_prune_(layers: Mapping[str, MaskedConv2d], sparsity: float) -> int:
    """Mask the smallest weights of all layers together; masked weights are ranked as well.

    No weight changes its value, so one that grows above the threshold, or is set free, is back with
    what it had.

    Args:
        layers: Changed in place.
        sparsity: Removed fraction over all layers.

    Returns:
        Weights kept, exactly ``n - floor(sparsity * n)``; ties go to the earlier layer.

    Raises:
        RunError: A weight is not finite.
    """
    weights = [layer.weight.detach() for layer in layers.values()]
    for name, weight in zip(layers, weights, strict=True):
        if not bool(torch.isfinite(weight).all()):
            raise RunError(f"two-in-one: a weight of {name} is not finite; nothing was pruned")
    keep = keep_count(sum(weight.numel() for weight in weights), sparsity)
    masks = global_topk_mask(weights, keep)
    for layer, mask in zip(layers.values(), masks, strict=True):
        layer.set_mask(mask)
    return keep


def set_free_(layers: Mapping[str, MaskedConv2d], names: Iterable[str]) -> int:
    """Set masks back to ones; give the number of weights that come back."""
    freed = 0
    for name in names:
        if name in layers:
            freed += int((~layers[name].mask).sum())
            layers[name].set_mask(torch.ones_like(layers[name].mask))
    return freed


def mask_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """Compare the masks of two prunings, on the weights that both have.

    Args:
        before: By weight name.
        after: The same names and shapes, and perhaps more.

    Returns:
        ``resurrected``: share of the weights of ``after`` that ``before`` lacked; ``dropped``:
        share of the weights of ``before`` that ``after`` lacks; ``iou``; ``iou_ceiling``: what the
        intersection over union would be if the smaller mask lay within the larger.
    """
    shared = [(before[name], after[name]) for name in before if name in after]
    old = sum(int(b.sum()) for b, _ in shared)
    new = sum(int(a.sum()) for _, a in shared)
    both = sum(int((b & a).sum()) for b, a in shared)
    return {
        "resurrected": (new - both) / max(new, 1),
        "dropped": (old - both) / max(old, 1),
        "iou": both / max(old + new - both, 1),
        "iou_ceiling": min(old, new) / max(old, new, 1),
    }
