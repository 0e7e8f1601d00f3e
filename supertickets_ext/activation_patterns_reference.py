"""The plain-PyTorch twins of the activation pattern operators; see `reference`."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["count_patterns", "hamming_gram", "pack_signs", "unpack_bits"]


def pack_signs(values: Tensor) -> Tensor:
    """Pack ``values > 0``, 64 to an int64 word, the first in the lowest bit.

    Args:
        values: ``[N, ...]``.

    Returns:
        int64 ``[N, ceil(bits / 64)]``.
    """
    bits = (values > 0).flatten(1).long()
    padded = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 64))
    weights = torch.ones(64, dtype=torch.int64) << torch.arange(64)
    return (padded.unflatten(1, (-1, 64)) * weights).sum(-1)  # the top bit wraps to the sign


def unpack_bits(patterns: Tensor) -> Tensor:
    """Give the bits of packed rows.

    Args:
        patterns: int64 ``[N, words]``.

    Returns:
        Bool ``[N, 64 * words]``.
    """
    return ((patterns.unsqueeze(-1) >> torch.arange(64)) & 1).bool().flatten(1)


def count_patterns(patterns: Tensor) -> int:
    """Count distinct rows.

    Args:
        patterns: int64 ``[N, words]``.

    Returns:
        Their number.
    """
    return len({tuple(row) for row in patterns.tolist()})


def hamming_gram(patterns: Tensor) -> Tensor:
    """Count differing bits of each two rows, by the published product of 0/1 matrices.

    Args:
        patterns: int64 ``[N, words]``.

    Returns:
        int32 ``[N, N]``.

    Source: Chen et al. 2021, TE-NAS, region count: D = A (1 - A)^T, distance D + D^T.
    """
    bits = unpack_bits(patterns).to(torch.float64)
    one_way = bits @ (1 - bits).T
    return (one_way + one_way.T).to(torch.int32)
