"""Put the compiled masked layers into a model; no other module of the ground floor needs them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets_ext.nn import MaskedConv2d, MaskedLinear


def put_masks_(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Replace layers by masked ones that share their parameters.

    Args:
        model: Changed in place. A layer that has several places in it stays one layer.
        masks: Weight key, such as ``"layer1.0.conv1.weight"`` -> bool mask of the weight's shape.

    Returns:
        ``model``; or its masked twin, if ``model`` is the layer itself.

    Raises:
        InputError: A key names no Conv2d or Linear weight.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    twins: dict[nn.Module, nn.Module] = {}
    for key, mask in masks.items():
        name, _, parameter = key.rpartition(".")
        layer = modules.get(name)
        if parameter != "weight" or not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise InputError(f"mask {key!r}: the model has no Conv2d or Linear of that name")
        if layer not in twins:
            twins[layer] = _masked_twin(layer, mask)
        if not name:
            return twins[layer]
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, twins[layer])
    return model


def _masked_twin(layer: nn.Conv2d | nn.Linear, mask: Tensor) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return MaskedConv2d.from_dense(layer, mask=mask)
    return MaskedLinear.from_dense(layer, mask=mask)
