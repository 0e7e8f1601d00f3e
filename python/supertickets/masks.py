"""What a mask is: a bool tensor of its weight's shape, True where the weight is kept."""

from __future__ import annotations

import numpy as np
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


def pack_mask(mask: Tensor) -> Tensor:
    """Pack a mask into bits, the first of every eight in the lowest bit.

    Args:
        mask: Bool ``[*]``.

    Returns:
        Uint8 ``[ceil(numel / 8)]``; unused bits are zero.
    """
    flat = mask.detach().cpu().reshape(-1).numpy()
    return torch.from_numpy(np.packbits(flat, bitorder="little"))


def unpack_mask(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo :func:`pack_mask`.

    Args:
        packed: Uint8 ``[ceil(numel / 8)]``.
        shape: Shape of the mask.

    Returns:
        Bool ``[*shape]``.
    """
    count = int(np.prod(shape, dtype=np.int64))
    bits = np.unpackbits(packed.numpy(), count=count, bitorder="little")
    return torch.from_numpy(bits.astype(np.bool_)).reshape(shape)
