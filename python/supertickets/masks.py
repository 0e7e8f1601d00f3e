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

    The compiled operator does it; without the compiled library, where tickets can be loaded all the
    same, numpy does, to the same bytes.

    Args:
        mask: Bool ``[*]``.

    Returns:
        Uint8 ``[ceil(numel / 8)]`` on the CPU; unused bits are zero.
    """
    mask = mask.detach().cpu()
    try:
        from supertickets_ext import pack_mask as pack
    except ImportError:
        return torch.from_numpy(np.packbits(mask.reshape(-1).numpy(), bitorder="little"))
    return pack(mask)


def unpack_mask(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo :func:`pack_mask`.

    Args:
        packed: Uint8 ``[ceil(numel / 8)]``.
        shape: Shape of the mask.

    Returns:
        Bool ``[*shape]``.
    """
    try:
        from supertickets_ext import unpack_mask as unpack
    except ImportError:
        count = int(np.prod(shape, dtype=np.int64))
        bits = np.unpackbits(packed.numpy(), count=count, bitorder="little")
        return torch.from_numpy(bits.astype(np.bool_)).reshape(shape)
    return unpack(packed, shape)
