"""What a mask is: a bool tensor of its weight's shape, True where the weight is kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mask_of(module: nn.Module) -> Tensor | None:
    """Give the mask of a masked Conv2d or Linear.

    Args:
        module: Any module.

    Returns:
        Its bool mask, or None if it is no masked layer.
    """
    if not isinstance(module, (nn.Conv2d, nn.Linear)):
        return None
    mask = getattr(module, "mask", None)
    return mask if isinstance(mask, Tensor) and mask.dtype == torch.bool else None
