"""Which layers may be pruned, and the model with masks in their place."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from supertickets.errors import InputError, did_you_mean
from supertickets_ext.nn import MaskedConv2d, MaskedLinear

MaskableLayer: TypeAlias = nn.Conv2d | nn.Linear
KeepDense: TypeAlias = Literal["classifier"] | Sequence[str]

# Exact types: a subclass may read its weight in a forward of its own, which a masked layer
# would silently replace (nn.MultiheadAttention's projection is one such Linear).
_CONVS = (nn.Conv2d, MaskedConv2d)
_LINEARS = (nn.Linear, MaskedLinear)


def maskable_layers(
    model: nn.Module, keep_dense: KeepDense = "classifier"
) -> dict[str, MaskableLayer]:
    """Find the convolutions and linear layers whose weights may be removed.

    Args:
        model: Any module. Layers of type ``nn.Conv2d`` and ``nn.Linear`` and their masked twins
            count, grouped ones too; subclasses with a forward of their own do not.
        keep_dense: Layers left untouched. ``"classifier"`` is the last linear layer, or the last
            convolution of a model without one; a list names layers, and may be empty.

    Returns:
        The layers by their name in the model, in the model's order.

    Raises:
        InputError: A name in ``keep_dense`` is no such layer, or nothing is left to prune.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module) in _CONVS or type(module) in _LINEARS
    }
    for name in _dense_names(layers, keep_dense):
        if name not in layers:
            raise InputError(
                f"keep_dense names {name!r}, which is no convolution or linear layer of "
                f"{type(model).__name__}{did_you_mean(name, layers)}"
            )
        del layers[name]
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no maskable layer: expected an nn.Conv2d or nn.Linear "
            f"beside those kept dense ({keep_dense!r})"
        )
    return layers


def _dense_names(layers: Mapping[str, MaskableLayer], keep_dense: KeepDense) -> list[str]:
    if not isinstance(keep_dense, str):
        return list(dict.fromkeys(keep_dense))
    if keep_dense != "classifier":
        raise InputError(f"keep_dense must be 'classifier' or a list of names, got {keep_dense!r}")
    linears = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    return (linears or list(layers))[-1:]


def check_weights(layers: Mapping[str, MaskableLayer]) -> None:
    """Refuse weights that cannot be ranked.

    Args:
        layers: As from :func:`maskable_layers`.

    Raises:
        InputError: A weight is NaN or infinite; names the layer and how many are.
    """
    for name, layer in layers.items():
        bad = int(layer.weight.numel() - layer.weight.isfinite().sum())
        if bad:
            raise InputError(
                f"layer {name!r}: {bad} of {layer.weight.numel()} weights are NaN or infinite; "
                "expected finite weights"
            )


def check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Refuse masks that do not fit the model.

    Args:
        model: The model to mask.
        masks: Bool tensors by layer name, each of its layer's weight shape.

    Raises:
        InputError: A name is unknown, or a mask has another dtype or shape than expected.
    """
    layers = maskable_layers(model, keep_dense=[])
    for name, mask in masks.items():
        if name not in layers:
            raise InputError(
                f"mask {name!r} belongs to no convolution or linear layer of "
                f"{type(model).__name__}{did_you_mean(name, layers)}"
            )
        expected = tuple(layers[name].weight.shape)
        if mask.dtype != torch.bool:
            raise InputError(f"mask {name!r}: expected dtype torch.bool, got {mask.dtype}")
        if tuple(mask.shape) != expected:
            raise InputError(f"mask {name!r}: expected shape {expected}, got {tuple(mask.shape)}")


def mask_model(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None,
    scores: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Copy a model with masked layers in the place of its dense ones.

    Args:
        model: Left untouched.
        masks: Bool masks by layer name; ``None`` masks every layer but removes nothing.
        scores: Starting scores by layer name, each of its layer's weight shape. Layers that have
            them get a ``scores`` parameter with the straight-through gradient.

    Returns:
        A deep copy in which each named layer is a ``MaskedConv2d`` or ``MaskedLinear``.

    Raises:
        InputError: A mask does not fit the model.
    """
    masked = copy.deepcopy(model)
    layers = maskable_layers(masked, keep_dense=[])
    if masks is None:
        masks = {
            name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()
        }
    check_masks(masked, masks)
    starts = {name: start.detach().clone() for name, start in (scores or {}).items()}
    twins = {
        id(layers[name]): _masked_twin(layers[name], mask, starts.get(name))
        for name, mask in masks.items()
    }
    return _replace(masked, twins)


def _masked_twin(layer: MaskableLayer, mask: Tensor, scores: Tensor | None) -> nn.Module:
    mask = mask.to(layer.weight.device)
    if isinstance(layer, nn.Conv2d):
        return MaskedConv2d.from_dense(layer, mask=mask, scores=scores)
    return MaskedLinear.from_dense(layer, mask=mask, scores=scores)


def _replace(root: nn.Module, twins: Mapping[int, nn.Module]) -> nn.Module:
    """Put each twin wherever its module is registered: a shared layer has several places."""
    if id(root) in twins:
        return twins[id(root)]
    for parent in list(root.modules()):
        for name, child in parent._modules.items():  # named_children leaves repetitions out
            if id(child) in twins:
                parent._modules[name] = twins[id(child)]
    return root
