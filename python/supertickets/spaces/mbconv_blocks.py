"""Operations of the mbconv space: inverted bottlenecks with squeeze and excitation, and others.

Each operation is named by what it is, so that a written path needs no table: ``k5e6`` is a 5x5
depthwise convolution between a 1x1 that expands sixfold and a 1x1 that projects; ``k3d2`` a 3x3
depthwise convolution of dilation 2 without expansion; ``bottleneck`` a residual bottleneck;
``skip`` nothing at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from supertickets.errors import InputError

BOTTLENECK = "bottleneck"
SKIP = "skip"
_BOTTLENECK_RATIO = 4
_SEPARABLE = re.compile(r"k(\d{1,2})([ed])(\d{1,2})")


@dataclass(frozen=True)
class Shape:
    """What a layer takes and gives.

    Attributes:
        inputs: Channels in.
        outputs: Channels out.
        stride: Of the layer.
        height: Of the input, in pixels.
        width: The same.
    """

    inputs: int
    outputs: int
    stride: int = 1
    height: int = 1
    width: int = 1

    @property
    def pixels(self) -> int:
        """Pixels of the input."""
        return self.height * self.width

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output, for odd kernels with half of them as padding."""
        return (self.height - 1) // self.stride + 1, (self.width - 1) // self.stride + 1

    @property
    def output_pixels(self) -> int:
        """Pixels of the output."""
        height, width = self.output_size
        return height * width

    @property
    def keeps(self) -> bool:
        """Whether the output has the input's shape, so that a shortcut is possible."""
        return self.stride == 1 and self.inputs == self.outputs


@dataclass(frozen=True)
class Style:
    """What all inverted bottlenecks of a network have in common.

    Attributes:
        se_ratio: Channels of a squeeze relative to those inside the block; 0: none.
        activation: Of the convolutions; the squeeze has ReLU in any case.
    """

    se_ratio: float = 0.25
    activation: Literal["swish", "relu"] = "swish"

    def act(self) -> nn.Module:
        """Make an activation."""
        return nn.SiLU() if self.activation == "swish" else nn.ReLU()


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of an image, and parameters."""

    macs: int = 0
    parameters: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.parameters + other.parameters)


def divisible(channels: float, divisor: int = 8) -> int:
    """Round a number of channels to a multiple, never more than a tenth down."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_cost(weights: int, pixels: int, outputs: int, *, bias: bool = False) -> Cost:
    """Count a convolution and, unless it has a bias, the batch norm after it."""
    return Cost(weights * pixels, weights + (outputs if bias else 2 * outputs))


class SqueezeExcite(nn.Module):
    """Gate each channel by the means of all (Hu et al. 2018); ReLU inside, hard sigmoid.

    The two layers on the means are linear ones: as 1x1 convolutions they compute the same, but a
    convolution of one pixel costs three times as much in small networks.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        reduced = divisible(channels * ratio)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.reduce = nn.Linear(channels, reduced)
        self.act = nn.ReLU()
        self.expand = nn.Linear(reduced, channels)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Give ``x`` with gated channels."""
        means = self.flatten(self.pool(x))
        return x * self.gate(self.expand(self.act(self.reduce(means))))[:, :, None, None]


class MBConv(nn.Module):
    """Expand by 1x1, convolve depthwise, squeeze and excite, project by 1x1.

    Without expansion it is a depthwise separable convolution. A shortcut joins where shapes allow.

    Args:
        shape: Channels and stride.
        kernel: Of the depthwise convolution, odd.
        expansion: Channels inside, as a multiple of the input's, rounded to a multiple of 8; 1: no
            1x1 before the depthwise convolution.
        dilation: Of the depthwise convolution.
        style: Squeeze and activation.

    Source: Sandler et al. 2018; Tan and Le 2019.
    """

    def __init__(
        self,
        shape: Shape,
        kernel: int,
        expansion: int,
        *,
        dilation: int = 1,
        style: Style,
    ) -> None:
        super().__init__()
        inside = _inside(shape, expansion)
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = conv_bn_act(shape.inputs, inside, 1, act=style.act())
        self.depthwise = conv_bn_act(
            inside, inside, kernel,
            stride=shape.stride, dilation=dilation, groups=inside, act=style.act(),
        )  # fmt: skip
        self.se: nn.Module = nn.Identity()
        if style.se_ratio:
            self.se = SqueezeExcite(inside, style.se_ratio)
        self.project = nn.Sequential(
            nn.Conv2d(inside, shape.outputs, 1, bias=False), nn.BatchNorm2d(shape.outputs)
        )
        self.residual = shape.keeps

    def forward(self, x: Tensor) -> Tensor:
        """Give ``[N, outputs, H / stride, W / stride]``."""
        out = self.project(self.se(self.depthwise(self.expand(x))))
        return out + x if self.residual else out


class Bottleneck(nn.Module):
    """1x1 to a quarter of the channels, 3x3, 1x1, shortcut, ReLU (He et al. 2016)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inside = shape.outputs // _BOTTLENECK_RATIO
        self.body = nn.Sequential(
            nn.Conv2d(shape.inputs, inside, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.Conv2d(inside, inside, 3, stride=shape.stride, padding=1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.Conv2d(inside, shape.outputs, 1, bias=False),
            nn.BatchNorm2d(shape.outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if not shape.keeps:
            self.shortcut = nn.Sequential(
                nn.Conv2d(shape.inputs, shape.outputs, 1, stride=shape.stride, bias=False),
                nn.BatchNorm2d(shape.outputs),
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Give ``[N, outputs, H / stride, W / stride]``."""
        return self.relu(self.body(x) + self.shortcut(x))


def conv_bn_act(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    act: nn.Module,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Make a convolution that keeps the image's size but for its stride, batch norm and ``act``."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(
        inputs, outputs, kernel,
        stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False,
    )  # fmt: skip
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), act)


def check_operation(name: str) -> None:
    """Refuse what names no operation.

    Raises:
        InputError: It is neither ``k<odd>e<expansion>``, ``k<odd>d<dilation>``, ``bottleneck`` nor
            ``skip``.
    """
    if name in (BOTTLENECK, SKIP):
        return
    found = _SEPARABLE.fullmatch(name)
    if found is None or int(found[1]) % 2 == 0 or int(found[3]) == 0:
        raise InputError(
            f"mbconv: no operation {name!r}; expected k<odd kernel>e<expansion> such as 'k5e6', "
            f"k<odd kernel>d<dilation> such as 'k3d2', {BOTTLENECK!r} or {SKIP!r}"
        )


def build_operation(name: str, shape: Shape, style: Style) -> nn.Module:
    """Build an operation by its name.

    Args:
        name: See :func:`check_operation`.
        shape: Channels and stride; height and width do not matter.
        style: Squeeze and activation.

    Raises:
        InputError: There is no such operation, or ``skip`` stands where shapes change.
    """
    check_operation(name)
    if name == SKIP:
        _check_skip(shape)
        return nn.Identity()
    if name == BOTTLENECK:
        return Bottleneck(shape)
    kernel, expansion, dilation = _separable(name)
    return MBConv(shape, kernel, expansion, dilation=dilation, style=style)


def operation_cost(name: str, shape: Shape, style: Style) -> Cost:
    """Count an operation, without building it.

    Args:
        name: See :func:`check_operation`.
        shape: Of the layer.
        style: Squeeze and activation.

    Raises:
        InputError: As :func:`build_operation`.
    """
    check_operation(name)
    if name == SKIP:
        _check_skip(shape)
        return Cost()
    if name == BOTTLENECK:
        return _bottleneck_cost(shape)
    kernel, expansion, _ = _separable(name)
    inside = _inside(shape, expansion)
    cost = conv_cost(kernel * kernel * inside, shape.output_pixels, inside)
    if expansion > 1:
        cost += conv_cost(shape.inputs * inside, shape.pixels, inside)
    if style.se_ratio:
        reduced = divisible(inside * style.se_ratio)
        cost += conv_cost(inside * reduced, 1, reduced, bias=True)
        cost += conv_cost(inside * reduced, 1, inside, bias=True)
    return cost + conv_cost(inside * shape.outputs, shape.output_pixels, shape.outputs)


def _bottleneck_cost(shape: Shape) -> Cost:
    inside = shape.outputs // _BOTTLENECK_RATIO
    cost = conv_cost(shape.inputs * inside, shape.pixels, inside)
    cost += conv_cost(9 * inside * inside, shape.output_pixels, inside)
    cost += conv_cost(inside * shape.outputs, shape.output_pixels, shape.outputs)
    if shape.keeps:
        return cost
    return cost + conv_cost(shape.inputs * shape.outputs, shape.output_pixels, shape.outputs)


def _separable(name: str) -> tuple[int, int, int]:
    """Read kernel, expansion and dilation."""
    found = _SEPARABLE.fullmatch(name)
    assert found is not None, "checked before"
    kernel, number = int(found[1]), int(found[3])
    return (kernel, number, 1) if found[2] == "e" else (kernel, 1, number)


def _inside(shape: Shape, expansion: int) -> int:
    return divisible(shape.inputs * expansion) if expansion > 1 else shape.inputs


def _check_skip(shape: Shape) -> None:
    if not shape.keeps:
        raise InputError(
            f"mbconv: 'skip' needs a layer that keeps shapes, got {shape.inputs} to "
            f"{shape.outputs} channels with stride {shape.stride}"
        )
