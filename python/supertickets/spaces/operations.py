"""The operations of cell-based spaces, and the edge that is the mean of its live ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.errors import InputError

NONE = "none"
SKIP = "skip_connect"

Operation = Callable[[int, int], nn.Module]
"""Builds an operation from its channels and its stride."""


def relu_conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Build ReLU, convolution with 'same' padding, batch norm."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


def conv_op(kernel: int) -> Operation:
    """Give the builder of a ReLU-Conv-BN of one kernel size."""
    return lambda channels, stride: relu_conv_bn(channels, channels, kernel, stride)


def sep_conv(kernel: int) -> Operation:
    """Give the builder of a separable convolution, applied twice as in DARTS."""

    def build(channels: int, stride: int) -> nn.Module:
        return nn.Sequential(
            *_depthwise_pointwise(channels, kernel, stride, kernel // 2, 1),
            *_depthwise_pointwise(channels, kernel, 1, kernel // 2, 1),
        )

    return build


def dil_conv(kernel: int) -> Operation:
    """Give the builder of a separable convolution of dilation 2."""
    return lambda channels, stride: nn.Sequential(
        *_depthwise_pointwise(channels, kernel, stride, kernel - 1, 2)
    )


def avg_pool(channels: int, stride: int) -> nn.Module:
    """Build the 3x3 mean that leaves the padding out."""
    return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)


def max_pool(channels: int, stride: int) -> nn.Module:
    """Build the 3x3 maximum."""
    return nn.MaxPool2d(3, stride=stride, padding=1)


def normalised(pool: Operation) -> Operation:
    """Give the builder of a pool with a batch norm without weights, as DARTS searches with."""
    return lambda channels, stride: nn.Sequential(
        pool(channels, stride), nn.BatchNorm2d(channels, affine=False)
    )


def skip(channels: int, stride: int) -> nn.Module:
    """Build the identity, or where it has to halve the image, a :class:`FactorizedReduce`."""
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)


class FactorizedReduce(nn.Module):
    """Halve an image by two 1x1 convolutions, the second shifted by one pixel.

    An odd side gets a zero pixel at its end for the second, so that both give the same size.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Give ``[N, outputs, ceil(H / 2), ceil(W / 2)]``."""
        x = self.relu(x)
        odd_rows, odd_columns = x.shape[2] % 2, x.shape[3] % 2
        shifted = F.pad(x, (0, odd_columns, 0, odd_rows)) if odd_rows or odd_columns else x
        return self.bn(torch.cat([self.conv1(x), self.conv2(shifted[:, :, 1:, 1:])], dim=1))


class MixedEdge(nn.Module):
    """The mean of an edge's live operations; the others never run.

    Args:
        operations: Names and modules of what may be live; ``none`` needs no module, and counts in
            the mean as a zero.

    Attributes:
        live: Names of the live operations.
        drop_path: In training mode, the share of samples for which an operation other than the
            identity gives zero; the others are scaled up (Larsson et al. 2017).
    """

    def __init__(self, operations: Iterable[tuple[str, nn.Module | None]]) -> None:
        super().__init__()
        self.live: tuple[str, ...] = ()
        self.drop_path = 0.0
        names = []
        for name, module in operations:
            names.append(name)
            if module is not None:
                self.add_module(name, module)
        self.set_live(names)

    def set_live(self, live: Sequence[str]) -> None:
        """Choose the live operations.

        Raises:
            InputError: One of them was not built.
        """
        for name in live:
            if name != NONE and name not in self._modules:
                raise InputError(f"edge: {name!r} is no operation of this network")
        self.live = tuple(live)

    def forward(self, x: Tensor) -> Tensor | None:
        """Give the mean, or ``None`` for a zero of the target's shape."""
        total: Tensor | None = None
        for name in self.live:
            if name != NONE:
                out = self._run(name, x)
                total = out if total is None else total + out
        if total is None or len(self.live) == 1:
            return total
        return total * (1.0 / len(self.live))

    def _run(self, name: str, x: Tensor) -> Tensor:
        module = self._modules[name]
        assert module is not None
        out = module(x)
        if self.training and self.drop_path > 0 and not isinstance(module, nn.Identity):
            keep = 1.0 - self.drop_path
            # as nn.Dropout does: the training loop seeds the global generator
            kept = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep)
            out = out * kept / keep
        return out


def build_edge(
    live: Sequence[str], builders: dict[str, Operation], channels: int, stride: int
) -> MixedEdge:
    """Build an edge that holds the given operations, all live."""
    return MixedEdge(
        (name, None if name == NONE else builders[name](channels, stride)) for name in live
    )


def node_sum(edges: Iterable[tuple[MixedEdge, Tensor, int]]) -> Tensor:
    """Add what a node's edges bring.

    Args:
        edges: Each edge with its input and its stride; at least one.

    Returns:
        The sum; zeros if every edge is dead.
    """
    total: Tensor | None = None
    shape_of: Tensor | None = None
    for edge, x, stride in edges:
        out = edge(x)
        if out is not None:
            total = out if total is None else total + out
        elif shape_of is None:
            shape_of = x if stride == 1 else x[:, :, ::stride, ::stride]
    if total is not None:
        return total
    assert shape_of is not None, "a node has at least one edge"
    return shape_of * 0.0


def _depthwise_pointwise(
    channels: int, kernel: int, stride: int, padding: int, dilation: int
) -> list[nn.Module]:
    depthwise = nn.Conv2d(
        channels,
        channels,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=channels,
        bias=False,
    )
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    return [nn.ReLU(), depthwise, pointwise, nn.BatchNorm2d(channels)]
