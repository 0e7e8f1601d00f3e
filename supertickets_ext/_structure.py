"""What pattern a mask has, and the smaller dense convolutions that compute the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

_GROUP_SIZES = (2, 4, 8, 16, 32)  # the m of n:m patterns
_WORTH = 0.9  # smaller convolutions of more than this share of the work are not worth a copy


@dataclass(frozen=True)
class Part:
    """One smaller convolution: the filters it computes, and the input channels it reads."""

    filters: Tensor
    """int64, ascending."""
    channels: Tensor
    """int64, ascending, counted over all groups."""
    groups: int = 1


@dataclass(frozen=True)
class MaskStructure:
    """A mask's pattern.

    ``kind`` is ``"none"`` (nothing is pruned), ``"filters"``, ``"channels"``,
    ``"filters+channels"`` (whole ones are gone), ``"blocks"`` (few groups of filters, each with
    input channels of its own), ``"n:m"`` (``n`` of every ``m`` neighbouring input channels) or
    ``"unstructured"``.
    """

    kind: str
    density: float
    filters: int
    """Filters that keep a weight."""
    channels: int
    """Input channels that keep a weight."""
    n: int = 0
    m: int = 0
    parts: tuple[Part, ...] | None = field(default=None, repr=False, compare=False)
    """Smaller convolutions that together compute the masked one; None if they save no work."""

    def __str__(self) -> str:
        if self.kind == "n:m":
            return f"{self.n}:{self.m}"
        if self.kind == "blocks" and self.parts is not None:
            return f"{len(self.parts)} blocks"
        return self.kind


@torch.no_grad()
def mask_structure(mask: Tensor, groups: int = 1) -> MaskStructure:
    """Find the pattern of a mask.

    Args:
        mask: Bool ``[O, C / groups, KH, KW]``.
        groups: Groups of the convolution.

    Returns:
        The pattern, with the smaller convolutions that it allows.

    Raises:
        TypeError: ``mask`` is not bool.
        ValueError: ``mask`` has not 4 dimensions, or groups do not divide its filters.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"mask_structure: mask must be bool, got {mask.dtype}")
    if mask.dim() != 4:
        raise ValueError(f"mask_structure: mask must have 4 dimensions, got {tuple(mask.shape)}")
    if groups < 1 or mask.shape[0] % groups != 0:
        raise ValueError(
            f"mask_structure: groups must divide mask's {mask.shape[0]} filters, got {groups}"
        )
    kept = int(torch.count_nonzero(mask))
    density = kept / mask.numel() if mask.numel() else 1.0
    if kept == mask.numel():
        return MaskStructure("none", density, mask.shape[0], mask.shape[1] * groups)
    # group, filter of it, channel of it; as numbers, for torch's any() is slower than its sum()
    used = _used(mask).reshape(groups, -1, mask.shape[1]).to(torch.float64)
    has_filter, has_channel = used.sum(2) > 0, used.sum(1) > 0
    kind = _kind(bool(has_filter.all()), bool(has_channel.all()))
    parts = _parts(used[0], has_filter[0], has_channel[0]) if groups == 1 else _whole_groups(used)
    n = m = 0
    if kind == "unstructured":
        if parts is not None:
            kind = "blocks"
        else:
            n, m = _n_of_m(mask, kept)
            kind = "n:m" if m else kind
    return MaskStructure(kind, density, int(has_filter.sum()), int(has_channel.sum()), n, m, parts)


def _used(mask: Tensor) -> Tensor:
    """Bool ``[O, C / groups]``: whether any tap is kept; a reduction of torch is slower here."""
    taps = mask.flatten(2).unbind(2)
    used = taps[0].clone()
    for tap in taps[1:]:
        used |= tap
    return used


def _kind(all_filters: bool, all_channels: bool) -> str:
    if all_filters:
        return "unstructured" if all_channels else "channels"
    return "filters" if all_channels else "filters+channels"


def _parts(used: Tensor, has_filter: Tensor, has_channel: Tensor) -> tuple[Part, ...] | None:
    """Gather filters that read the same channels; None if that makes many parts or saves little."""
    filters = has_filter.nonzero()[:, 0]
    if len(filters) == 0:
        return ()
    single = Part(filters, has_channel.nonzero()[:, 0])
    parts = _equal_rows(used, filters)
    if parts is None or _work(parts) > _WORTH * _work((single,)):
        parts = (single,)
    return parts if _work(parts) <= _WORTH * used.numel() else None


def _equal_rows(used: Tensor, filters: Tensor) -> tuple[Part, ...] | None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(2**31, (used.shape[1],), generator=generator)
    sums = used @ weights.to(torch.float64)  # exact whole numbers: equal rows have equal sums
    distinct = sums[filters].unique()
    if len(distinct) > max(2, len(filters) // 8):
        return None
    parts = []
    for value in distinct:
        members = filters[sums[filters] == value]
        pattern = used[members].sum(0) > 0  # the union, should two patterns ever share a sum
        parts.append(Part(members, pattern.nonzero()[:, 0]))
    return tuple(parts)


def _work(parts: tuple[Part, ...]) -> int:
    return sum(len(part.filters) * len(part.channels) for part in parts)


def _whole_groups(used: Tensor) -> tuple[Part, ...] | None:
    """Of a grouped convolution, only whole groups can be left out."""
    groups, filters, channels = used.shape
    kept = used.sum((1, 2)).nonzero()[:, 0]
    if len(kept) > _WORTH * groups:
        return None
    if len(kept) == 0:
        return ()
    return (Part(_members(kept, filters), _members(kept, channels), len(kept)),)


def _members(groups: Tensor, each: int) -> Tensor:
    return (groups[:, None] * each + torch.arange(each)).flatten()


def _n_of_m(mask: Tensor, kept: int) -> tuple[int, int]:
    """The smallest m for which every m neighbouring input channels keep equally many weights."""
    for m in _GROUP_SIZES:
        if mask.shape[1] % m == 0 and kept * m % mask.numel() == 0:
            n = kept * m // mask.numel()
            counts = mask.unflatten(1, (-1, m)).sum(2)
            if bool((counts == n).all()):
                return n, m
    return 0, 0
