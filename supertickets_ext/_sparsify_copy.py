"""An ordinary copy of a model for evaluation, with its masks as zeros in the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from supertickets_ext._sparsify_units import copy_conv
from supertickets_ext.nn import MaskedConv2d, MaskedLinear


def plain_copy(model: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    """Copy a model, masks multiplied into the weights.

    Args:
        model: Any module; its mode and its values stay.
        inputs: To call it with once, if it needs that before it can be copied.

    Returns:
        The copy, in evaluation mode, without masked modules, pruning hooks and parametrizations.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        if any(isinstance(hook, prune.BasePruningMethod) for hook in _hooks(model)):
            model.eval()(*inputs)  # torch's pruning keeps weights that cannot be copied until then
        plain = copy.deepcopy(model).eval()
    finally:
        for module, mode in modes.items():
            module.training = mode
    for module in list(plain.modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
    for name, module in list(plain.named_modules()):
        ordinary = _ordinary(module)
        if ordinary is not None:
            if module is plain:
                return ordinary
            plain.set_submodule(name, ordinary)
    return plain


def _ordinary(module: nn.Module) -> nn.Module | None:
    """What a masked or parametrized layer is for evaluation; None for any other module."""
    if isinstance(module, MaskedConv2d | MaskedLinear):
        return module.to_dense().eval()
    # parametrizations cannot be removed from a copy: its class is the original's
    if isinstance(module, nn.Conv2d) and parametrize.is_parametrized(module):
        return copy_conv(module, module.weight, module.bias)
    return None


def _hooks(model: nn.Module) -> list[Any]:
    return [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]


def set_masks(model: nn.Module, mask_from: str | Mapping[str, Tensor]) -> None:
    """Set weights to zero by masks; see ``sparsify``.

    Raises:
        ValueError: A name or a mask does not fit.
    """
    if isinstance(mask_from, str):
        if mask_from != "zeros":
            raise ValueError(
                f"sparsify: mask_from must be 'zeros' or masks by name, got {mask_from!r}"
            )
        return
    parameters = dict(model.named_parameters())
    for name, mask in mask_from.items():
        if name not in parameters:
            raise ValueError(f"sparsify: mask_from names {name!r}, which the model has not")
        if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
            raise ValueError(
                f"sparsify: the mask of {name} must be bool {tuple(parameters[name].shape)}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        parameters[name].masked_fill_(~mask, 0)
