"""What the tests of the batch-inner layout share: inputs, and the comparison with dense tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from supertickets_ext.lanes import LaneTensor, to_lanes

BATCHES = (3, 16, 17, 32)
CHANNELS, HEIGHT, WIDTH = 4, 5, 7
batches = pytest.mark.parametrize("batch", BATCHES)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def images(batch: int, *, seed: int = 0) -> Tensor:
    return draw(batch, CHANNELS, HEIGHT, WIDTH, seed=seed)


def poisoned(x: Tensor) -> Any:
    """Lanes whose absent images hold something, as they may after any function."""
    lanes = to_lanes(x)
    present = to_lanes(torch.ones_like(x)).lanes.bool()
    return lanes.with_lanes(lanes.lanes.where(present, 3.5))


def dense(y: Any) -> Any:
    return y.dense() if isinstance(y, LaneTensor) else y


def values_and_gradients(
    function: Callable[..., Any], enter: Callable[[Tensor], Any], x: Tensor, *others: Tensor
) -> list[Tensor]:
    """The result for ``enter(x)``, and its gradients with respect to x and the others."""
    leaves = [t.clone().requires_grad_() for t in (x, *others)]
    y = dense(function(enter(leaves[0]), *leaves[1:]))
    return [y.detach(), *torch.autograd.grad(y, leaves, draw(*y.shape, seed=9))]


def check_like_dense(function: Callable[..., Any], x: Tensor, *others: Tensor) -> None:
    expected = values_and_gradients(function, lambda t: t, x, *others)
    torch.testing.assert_close(values_and_gradients(function, to_lanes, x, *others), expected)
    torch.testing.assert_close(values_and_gradients(function, poisoned, x, *others), expected)
