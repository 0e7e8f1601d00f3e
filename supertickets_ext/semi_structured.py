"""Weights with 2:4 masks for the sparse tensor cores, as torch's semi-structured tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.sparse import to_sparse_semi_structured

from supertickets_ext.topk_mask import nm_mask

_OP = "semi_structured"


def semi_structured(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pack the two of every four neighbours in a row that a 2:4 mask keeps.

    ``torch.nn.functional.linear(x, semi_structured(weight))`` then runs on the sparse tensor cores.
    A convolution of 1x1 is such a layer over its pixels.

    Args:
        weight: ``[O, C]``, or ``[O, C, 1, 1]``; float16 or bfloat16, on a CUDA device of compute
            capability 8.0 or later. torch asks for sizes that are multiples of 32 or 64.
        mask: Bool, of weight's shape, at most two of four neighbours along C kept; None for the two
            largest magnitudes of each four, by :func:`supertickets_ext.nm_mask`.

    Returns:
        ``torch.sparse.SparseSemiStructuredTensor`` ``[O, C]``.

    Raises:
        ValueError: A shape, the mask or the device does not fit.
        TypeError: A dtype does not fit.

    Source: Mishra et al. 2021, Accelerating Sparse Deep Neural Networks (arXiv 2104.08378).
    """
    if weight.dim() not in (2, 4) or tuple(weight.shape[2:]) not in ((), (1, 1)):
        raise ValueError(f"{_OP}: weight must be [O, C] or [O, C, 1, 1], got {tuple(weight.shape)}")
    if weight.dtype not in (torch.float16, torch.bfloat16):
        raise TypeError(f"{_OP}: weight must be float16 or bfloat16, got {weight.dtype}")
    if weight.shape[1] % 4 != 0:
        raise ValueError(f"{_OP}: weight's C must be a multiple of 4, got {weight.shape[1]}")
    if mask is None:
        mask = nm_mask(weight.detach(), 2, 4)
    elif mask.dtype != torch.bool:
        raise TypeError(f"{_OP}: mask must be bool, got {mask.dtype}")
    elif mask.shape != weight.shape:
        raise ValueError(
            f"{_OP}: mask must have weight's shape {tuple(weight.shape)}, got {tuple(mask.shape)}"
        )
    elif bool((mask.flatten(1).unflatten(1, (-1, 4)).sum(2) > 2).any()):
        raise ValueError(f"{_OP}: mask must keep at most two of every four neighbours along C")
    if not weight.is_cuda or torch.cuda.get_device_capability(weight.device) < (8, 0):
        raise ValueError(
            f"{_OP}: weight must be on a CUDA device of compute capability 8.0 or later, "
            f"got {weight.device}"
        )
    packed: Tensor = to_sparse_semi_structured(weight.detach().where(mask, 0).flatten(1))
    return packed
