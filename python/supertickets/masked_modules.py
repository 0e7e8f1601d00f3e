"""Put the compiled masked layers into a model; no other module of the ground floor needs them."""

from __future__ import annotations

from collections.abc import Mapping

from supertickets_ext.nn import MaskedConv2d, MaskedLinear
from torch import Tensor, nn

from supertickets.errors import InputError


def put_masks_(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Replace layers by masked ones that share their parameters.

    Args:
        model: Changed in place.
        masks: Weight key, such as ``"layer1.0.conv1.weight"`` -> bool mask of the weight's shape.

    Returns:
        ``model``.

    Raises:
        InputError: A key names no Conv2d or Linear weight.
    """
    for key, mask in masks.items():
        name, _, parameter = key.rpartition(".")
        modules = dict(model.named_modules(remove_duplicate=False))
        layer = modules.get(name)
        if parameter != "weight" or not name or not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise InputError(f"mask {key!r}: the model has no Conv2d or Linear of that name")
        parent, _, child = name.rpartition(".")
        masked: nn.Module
        if isinstance(layer, nn.Conv2d):
            masked = MaskedConv2d.from_dense(layer, mask=mask)
        else:
            masked = MaskedLinear.from_dense(layer, mask=mask)
        setattr(modules[parent], child, masked)
    return model
