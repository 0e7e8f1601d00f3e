"""A sparse convolution for inference: weights packed once; bias, residual and ReLU fused."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supertickets_ext._conv_options import check_channels, conv_options, output_size
from supertickets_ext._fold import check_foldable, folded
from supertickets_ext._kept import State, is_captured
from supertickets_ext._masked_conv2d_autograd import apply_masked_conv2d
from supertickets_ext.lanes import LaneTensor

_ops = torch.ops.supertickets
_BATCH = 8  # from this batch on, packed weights are laid out for several images at once


class SparseConv2d(nn.Module):
    """Computes ``relu(conv2d(x, weight * mask) + bias + residual)`` on the kept weights alone.

    Made by :meth:`from_dense`. The weights are packed at the first input of each image size, which
    takes about as long as one call, and again when weight or mask change. For inference: gradients
    reach the input and the residual, not weight and bias.

    Attributes:
        weight: ``[O, C / groups, KH, KW]``, takes no gradient.
        mask: Bool, of weight's shape.
        bias: ``[O]`` or None.
        relu: Whether negative results become zero.
    """

    mask: Tensor

    def __init__(
        self, conv: nn.Conv2d, weight: Tensor, mask: Tensor, bias: Tensor | None, relu: bool
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size = (weight.shape[2], weight.shape[3])
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.groups, self.padding_mode, self.relu = conv.groups, conv.padding_mode, relu
        self._pad = list(conv._reversed_padding_repeated_twice)
        around = conv.padding if conv.padding_mode == "zeros" else 0
        self._options = conv_options(
            "SparseConv2d", self.kernel_size, conv.stride, around, conv.dilation, conv.groups
        )
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.register_buffer("mask", mask)
        self._packed: dict[tuple[Any, ...], tuple[Tensor, tuple[int, ...]]] = {}
        self._source: tuple[State, State] | None = None

    @classmethod
    @torch.no_grad()
    def from_dense(
        cls,
        conv: nn.Conv2d,
        mask: Tensor | None = None,
        *,
        bn: nn.BatchNorm2d | None = None,
        relu: bool = False,
    ) -> SparseConv2d:
        """Take over a convolution; nothing is shared with it.

        Args:
            conv: A dense or masked layer.
            mask: Bool, of weight's shape; None for the layer's own mask, or else for the weights
                that are not zero.
            bn: A batch norm that follows, folded in with its running statistics.
            relu: Whether a ReLU ends it.

        Returns:
            The sparse layer, in evaluation mode.

        Raises:
            TypeError: ``conv``, ``mask`` or ``bn`` is of another type.
            ValueError: A shape does not fit, or ``bn`` keeps no statistics.
        """
        name = "SparseConv2d.from_dense"
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"{name}: conv must be nn.Conv2d, got {type(conv).__name__}")
        weight = conv.weight.detach()
        mask = kept_weights(name, conv, mask)
        weight = weight.where(mask, 0)
        bias = None if conv.bias is None else conv.bias.detach().clone()
        if bn is not None:
            check_foldable(name, conv, bn)
            weight, bias = folded(weight, bias, bn)
        return cls(conv, weight.contiguous(), mask, bias, relu).eval()

    @torch.no_grad()
    def set_weight(
        self, weight: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        """Replace the weights, and the mask by the given one or the weights that are not zero.

        Args:
            weight: Of the present shape.
            mask: Bool, of weight's shape.
            bias: ``[O]``; None leaves the bias as it is.

        Raises:
            TypeError: ``mask`` is not bool.
            ValueError: A shape does not fit, or the layer has no bias.
        """
        name = "SparseConv2d.set_weight"
        if weight.shape != self.weight.shape:
            raise ValueError(
                f"{name}: weight must have shape {tuple(self.weight.shape)}, "
                f"got {tuple(weight.shape)}"
            )
        mask = weight != 0 if mask is None else _checked(name, mask, weight)
        if bias is not None:
            if self.bias is None:
                raise ValueError(f"{name}: the layer has no bias, got one")
            self.bias.copy_(bias)
        self.weight.copy_(weight.where(mask, 0))
        self.mask.copy_(mask)
        self._packed.clear()

    @property
    def density(self) -> float:
        """Kept share of the weights."""
        return float(self.mask.float().mean()) if self.mask.numel() else 1.0

    def forward(self, x: Any, residual: Any = None) -> Any:
        """Convolve, add and clip in one pass.

        Args:
            x: ``[N, C, H, W]``, ``[C, H, W]`` or a ``LaneTensor``, of weight's dtype.
            residual: Added before the ReLU; of the result's shape.

        Returns:
            ``[N, O, OH, OW]`` in x's memory format, ``[O, OH, OW]`` or a ``LaneTensor``.

        Raises:
            ValueError: A shape does not fit.
            TypeError: x has another dtype than the weights.
        """
        if x.dtype != self.weight.dtype:
            x, residual = self._same_dtype(x), self._same_dtype(residual)
        if self.padding_mode != "zeros":
            x = F.pad(x, self._pad, mode=self.padding_mode)
        if isinstance(x, LaneTensor):
            if residual is not None and not isinstance(residual, LaneTensor):
                residual = LaneTensor(_ops.to_lanes(residual), x.batch)
            return x.with_lanes(self._run(x.lanes, None if residual is None else residual.lanes))
        if isinstance(residual, LaneTensor):
            residual = residual.dense()
        if x.dim() == 3:
            more = None if residual is None else residual.unsqueeze(0)
            return self._run(x.unsqueeze(0), more).squeeze(0)
        return self._run(x, residual)

    def _same_dtype(self, x: Any) -> Any:
        if x is None or torch.is_autocast_enabled(x.device.type):  # the layers before may have cast
            return None if x is None else x.to(self.weight.dtype)
        if x.dtype != self.weight.dtype:
            raise TypeError(
                f"SparseConv2d: x and residual must have weight's dtype {self.weight.dtype}, "
                f"got {x.dtype}"
            )
        return x

    def _run(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() and (
            x.requires_grad or (residual is not None and residual.requires_grad)
        ):
            y = apply_masked_conv2d(x, self.weight, self.mask, self.bias, None, self._options)
            y = y if residual is None else y + residual
            return y.relu() if self.relu else y
        packed, size = self._pack(x)
        if x.shape[1] != self.in_channels:
            check_channels("SparseConv2d", x.shape, self.weight.shape, self._options)
        if residual is not None and residual.shape != (x.shape[0], *size, *x.shape[4:]):
            raise ValueError(
                f"SparseConv2d: residual must have the result's shape {(x.shape[0], *size)}, "
                f"got {tuple(residual.shape[:4])}"
            )
        return _ops.masked_conv2d_packed(
            x, packed, self.weight.shape, self.bias, residual, self.relu, *self._options
        )

    def _pack(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The packed weights for inputs like x, and the size of a result; kept by the input's."""
        weight, mask, source = self.weight, self.mask, self._source
        if source is None or not (source[0].is_of(weight) and source[1].is_of(mask)):
            self._packed.clear()
            self._source = (State(weight), State(mask))
        several = x.dim() == 5 or x.shape[0] >= _BATCH
        key = (x.dim(), several, x.shape[2], x.shape[3], self.weight.dtype)
        kept = None if is_captured() else self._packed.get(key)
        if kept is None:
            check_channels("SparseConv2d", x.shape, weight.shape, self._options)
            high, wide = output_size("SparseConv2d", x.shape[2:], self.kernel_size, self._options)
            packed = _ops.masked_conv2d_pack(weight, mask, x.shape, *self._options)
            kept = (packed, (self.out_channels, high, wide))
            if not is_captured():
                self._packed[key] = kept
        return kept

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": {}, "_source": None}

    def _apply(self, fn: Any, recurse: bool = True) -> SparseConv2d:
        self._packed.clear()  # .to() and the like put new values into the same parameters
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Describe the layer, with its density."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}"
        )
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode!r}"
        ends = f", bias={self.bias is not None}, relu={self.relu}"
        return f"{text}{ends}, density={self.density:.4g}"


def kept_weights(name: str, conv: nn.Conv2d, mask: Tensor | None = None) -> Tensor:
    """The mask of a convolution: the given one, its own, or the weights that are not zero.

    Args:
        name: Of the caller, for messages.
        conv: A dense or masked layer.
        mask: Bool, of weight's shape.

    Returns:
        A new mask.

    Raises:
        TypeError: ``mask`` is not bool.
        ValueError: ``mask`` has another shape.
    """
    if mask is None:
        mask = getattr(conv, "mask", None)
    if mask is None:
        return conv.weight.detach() != 0
    return _checked(name, mask, conv.weight).clone()


def _checked(name: str, mask: Tensor, weight: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: mask must be bool, got {mask.dtype}")
    if mask.shape != weight.shape:
        raise ValueError(
            f"{name}: mask must have weight's shape {tuple(weight.shape)}, got {tuple(mask.shape)}"
        )
    return mask
