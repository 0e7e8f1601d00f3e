"""A convolution with what follows it, as one call; and the ways to compute it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supertickets_ext._conv_options import conv_options
from supertickets_ext._dense import compact_conv2d
from supertickets_ext._structure import Part
from supertickets_ext.lanes import LaneTensor, to_lanes
from supertickets_ext.sparse import SparseConv2d


class DenseUnit(nn.Module):
    """``relu(conv(x) + residual)`` by torch; residual and ReLU are left out where there are none.

    Args:
        conv: With a batch norm folded in; shared.
        relu: Whether a ReLU ends it.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.conv = conv
        self.relu = relu

    def forward(self, x: Any, residual: Any = None) -> Any:
        """Compute the unit in x's layout."""
        return _finish(self.conv(x), residual, self.relu)

    def in_format(self, memory_format: torch.memory_format) -> DenseUnit:
        """Copy the unit with its weight stored in another memory format."""
        conv = copy_conv(self.conv, self.conv.weight.detach(), self.conv.bias)
        conv.weight.data = conv.weight.data.contiguous(memory_format=memory_format)
        return DenseUnit(conv, self.relu).eval()

    def sparse(self) -> SparseConv2d:
        """Make the unit that skips the zeros of the weight."""
        return SparseConv2d.from_dense(self.conv, relu=self.relu)


class CompactUnit(nn.Module):
    """The unit by smaller dense convolutions, for a mask that lacks whole filters or channels."""

    def __init__(self, unit: DenseUnit, parts: tuple[Part, ...]) -> None:
        super().__init__()
        conv = unit.conv
        self.weight, self.bias, self.relu = conv.weight, conv.bias, unit.relu
        self.register_buffer("mask", conv.weight.detach() != 0)
        kernel = (conv.weight.shape[2], conv.weight.shape[3])
        self._options = conv_options(
            "sparsify", kernel, conv.stride, conv.padding, conv.dilation, conv.groups
        )
        self._parts = parts

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Compute the unit in x's memory format."""
        mask = self.get_buffer("mask")
        y = compact_conv2d(x, self.weight, mask, self.bias, self._options, self._parts)
        return _finish(y, residual, self.relu)


def _finish(y: Any, residual: Any, relu: bool) -> Any:
    if torch.is_grad_enabled():  # what autograd saved must not change
        y = y if residual is None else y + residual
        return F.relu(y) if relu else y
    if residual is not None:
        y = y.add_(residual)
    return F.relu(y, inplace=True) if relu else y


def copy_conv(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Make a convolution with conv's options and other values, which are copied."""
    with torch.device("meta"):
        copy = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias is not None,
            conv.padding_mode,
        )
    copy.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        copy.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return copy.eval()


class Convert(nn.Module):
    """Gives a batch of maps in another layout.

    Args:
        layout: ``"lanes"``, ``"nchw"`` or ``"channels_last"``.
    """

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, x: Any) -> Any:
        """Convert; x is returned as it is if nothing changes."""
        if self.layout == "lanes":
            return to_lanes(x)
        if isinstance(x, LaneTensor):
            return x.dense(torch.channels_last)
        last = self.layout == "channels_last"
        return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def extra_repr(self) -> str:
        """Name the layout."""
        return self.layout
