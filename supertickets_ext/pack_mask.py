"""Masks as bits, an eighth of their size: how they are stored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from supertickets_ext import _mask_rules as _mask_rules
from supertickets_ext._library import check_device

_ops = torch.ops.supertickets


def pack_mask(mask: Tensor) -> Tensor:
    """Pack a mask into bits, the first of every eight in the lowest bit.

    Args:
        mask: Bool ``[*]``.

    Returns:
        Uint8 ``[ceil(numel / 8)]``; unused bits are zero.

    Raises:
        TypeError: ``mask`` is not bool.
        ValueError: The device has no kernel.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"pack_mask: mask must be bool, got {mask.dtype}")
    check_device("pack_mask", "mask", mask)
    return _ops.pack_mask(mask)


def unpack_mask(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo :func:`pack_mask`.

    Args:
        packed: Uint8 ``[ceil(numel / 8)]``; bits beyond ``numel`` are not read.
        shape: Shape of the mask, of ``numel`` entries.

    Returns:
        Bool ``[*shape]``.

    Raises:
        TypeError: ``packed`` is not uint8.
        ValueError: The sizes do not fit each other, or the device has no kernel.
    """
    if packed.dtype != torch.uint8:
        raise TypeError(f"unpack_mask: packed must be uint8, got {packed.dtype}")
    needed = (math.prod(shape) + 7) // 8
    if tuple(packed.shape) != (needed,):
        raise ValueError(
            f"unpack_mask: packed must have shape ({needed},) for a mask {tuple(shape)}, "
            f"got {tuple(packed.shape)}"
        )
    check_device("unpack_mask", "packed", packed)
    return _ops.unpack_mask(packed, list(shape))
