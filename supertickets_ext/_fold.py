"""Folds an evaluation-mode batch norm into the convolution before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_foldable(owner: str, conv: nn.Conv2d, bn: nn.Module) -> None:
    """Check that a batch norm can be folded.

    Raises:
        TypeError: ``bn`` is no ``nn.BatchNorm2d``.
        ValueError: It keeps no running statistics, or has another number of channels.
    """
    if not isinstance(bn, nn.BatchNorm2d):
        raise TypeError(f"{owner}: bn must be nn.BatchNorm2d, got {type(bn).__name__}")
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(f"{owner}: bn must keep running statistics, got track_running_stats=False")
    if bn.num_features != conv.out_channels:
        raise ValueError(
            f"{owner}: bn must have conv's {conv.out_channels} filters, got {bn.num_features}"
        )


@torch.no_grad()
def folded(weight: Tensor, bias: Tensor | None, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Give weight and bias of the convolution that includes ``bn``; computed in float64.

    Args:
        weight: ``[O, C / groups, KH, KW]``.
        bias: ``[O]``.
        bn: Over O channels, with running statistics.

    Returns:
        Weight and bias in weight's dtype.
    """
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = (bn.running_var.double() + bn.eps).rsqrt()
    if bn.weight is not None:
        scale = scale * bn.weight.double()
    shift = -bn.running_mean.double() if bias is None else bias.double() - bn.running_mean.double()
    shift = shift * scale
    if bn.bias is not None:
        shift = shift + bn.bias.double()
    wide = weight.double() * scale[:, None, None, None]
    return wide.to(weight.dtype), shift.to(weight.dtype)
