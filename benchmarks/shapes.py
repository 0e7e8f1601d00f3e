"""Shapes shared by the operator tests and the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class ConvInputs(NamedTuple):
    """Arguments of one masked convolution."""

    x: Tensor
    weight: Tensor
    mask: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class ConvShape:
    """One convolution: sizes, and the keywords that ``F.conv2d`` takes."""

    name: str
    batch: int
    channels: int
    outputs: int
    image: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] | str = 0
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    bias: bool = True

    @property
    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of the convolution."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """``[N, C, H, W]``."""
        return (self.batch, self.channels, *self.image)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """``[K, C / groups, R, S]``."""
        return (self.outputs, self.channels // self.groups, *self.kernel)

    def inputs(
        self,
        *,
        density: float = 0.4,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        seed: int = 0,
    ) -> ConvInputs:
        """Draw the arguments: normal values, each weight kept with probability ``density``."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(self.input_shape, generator=generator).to(dtype)
        weight = torch.randn(self.weight_shape, generator=generator).to(dtype)
        mask = torch.rand(self.weight_shape, generator=generator) < density
        bias = torch.randn(self.outputs, generator=generator).to(dtype) if self.bias else None
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return ConvInputs(x, weight, mask, bias)


# Every rule of the contract once, as small as the rule allows.
EDGE_SHAPES = (
    ConvShape("plain-3x3", 2, 4, 6, (7, 9), padding=1),
    ConvShape("no-padding", 2, 3, 5, (8, 8)),
    ConvShape("no-bias", 2, 4, 6, (7, 7), padding=1, bias=False),
    ConvShape("batch-1", 1, 8, 16, (14, 14), padding=1),
    ConvShape("batch-17", 17, 5, 7, (6, 5), padding=1),
    ConvShape("empty-batch", 0, 4, 6, (7, 9), padding=1),
    ConvShape("image-1x1", 3, 4, 6, (1, 1), padding=1),
    ConvShape("one-channel", 2, 1, 1, (5, 5), padding=1),
    ConvShape("one-row", 2, 4, 6, (1, 33), padding=1),
    ConvShape("one-column", 2, 4, 6, (33, 1), padding=1),
    ConvShape("output-1x1", 2, 4, 6, (3, 3)),
    ConvShape("wide-vector-tail", 1, 3, 5, (3, 67), padding=1),
    ConvShape("1x1", 2, 8, 12, (7, 5), kernel=(1, 1)),
    ConvShape("1x1-stride-2", 2, 8, 12, (7, 8), kernel=(1, 1), stride=2),
    ConvShape("1x1-padded", 2, 4, 6, (5, 5), kernel=(1, 1), padding=2),
    ConvShape("5x5", 2, 4, 6, (9, 11), kernel=(5, 5), padding=2),
    ConvShape("7x7-stride-2", 2, 3, 8, (17, 15), kernel=(7, 7), stride=2, padding=3),
    ConvShape("even-kernel", 2, 3, 4, (8, 7), kernel=(2, 4), padding=1),
    ConvShape("1x5", 2, 3, 4, (6, 9), kernel=(1, 5), padding=(0, 2)),
    ConvShape("3x1", 2, 3, 4, (6, 9), kernel=(3, 1), padding=(1, 0)),
    ConvShape("stride-3", 2, 4, 6, (11, 13), stride=3, padding=1),
    ConvShape("stride-pair", 2, 4, 6, (11, 13), stride=(1, 2), padding=(2, 0)),
    ConvShape("stride-over-kernel", 2, 4, 6, (13, 11), kernel=(2, 2), stride=5),
    ConvShape("dilation-2", 2, 4, 6, (11, 9), padding=2, dilation=2),
    ConvShape("dilation-pair", 2, 4, 6, (11, 13), stride=2, padding=(3, 1), dilation=(3, 2)),
    ConvShape("padding-over-kernel", 2, 3, 4, (5, 6), padding=5),
    ConvShape("same", 2, 4, 6, (7, 9), padding="same"),
    ConvShape("same-even-kernel", 2, 4, 6, (7, 9), kernel=(4, 2), padding="same"),
    ConvShape("same-dilated", 2, 4, 6, (7, 9), padding="same", dilation=(2, 3)),
    ConvShape("valid", 2, 4, 6, (7, 9), padding="valid"),
    ConvShape("groups-2", 2, 6, 8, (7, 7), padding=1, groups=2),
    ConvShape("groups-odd", 2, 15, 9, (7, 5), stride=2, padding=1, groups=3),
    ConvShape("depthwise", 2, 9, 9, (8, 7), padding=1, groups=9),
    ConvShape("depthwise-multiplier", 2, 5, 15, (8, 7), stride=2, padding=1, groups=5),
    ConvShape("depthwise-5x5", 1, 7, 7, (9, 9), kernel=(5, 5), padding=2, groups=7),
    ConvShape("many-channels", 1, 67, 33, (5, 5), padding=1),
)

# Layers of the networks that the pipeline prunes, at batch 1 and their usual image size.
NETWORK_SHAPES = (
    ConvShape("resnet20-stage1", 1, 16, 16, (32, 32), padding=1, bias=False),
    ConvShape("resnet20-stage2", 1, 32, 32, (16, 16), padding=1, bias=False),
    ConvShape("resnet20-stage3", 1, 64, 64, (8, 8), padding=1, bias=False),
    ConvShape("resnet50-stem", 1, 3, 64, (224, 224), (7, 7), stride=2, padding=3, bias=False),
    ConvShape("resnet50-c2-3x3", 1, 64, 64, (56, 56), padding=1, bias=False),
    ConvShape("resnet50-c3-3x3-s2", 1, 128, 128, (56, 56), stride=2, padding=1, bias=False),
    ConvShape("resnet50-c3-3x3", 1, 128, 128, (28, 28), padding=1, bias=False),
    ConvShape("resnet50-c4-3x3", 1, 256, 256, (14, 14), padding=1, bias=False),
    ConvShape("resnet50-c5-3x3", 1, 512, 512, (7, 7), padding=1, bias=False),
    ConvShape("resnet50-c4-1x1", 1, 1024, 256, (14, 14), (1, 1), bias=False),
    ConvShape("vgg19-conv3", 1, 128, 256, (8, 8), padding=1),
    ConvShape("mbconv-depthwise-5x5", 1, 96, 96, (28, 28), (5, 5), padding=2, groups=96),
)

# The layers that the goals of masked_conv2d are stated for, largest map first.
RESNET50_3X3 = tuple(
    shape
    for shape in NETWORK_SHAPES
    if shape.name.startswith("resnet50") and shape.kernel == (3, 3) and shape.stride == 1
)
RESNET50_1X1 = (
    ConvShape("resnet50-c2-1x1", 1, 256, 64, (56, 56), (1, 1), bias=False),
    ConvShape("resnet50-c3-1x1", 1, 512, 128, (28, 28), (1, 1), bias=False),
    ConvShape("resnet50-c4-1x1-wide", 1, 256, 1024, (14, 14), (1, 1), bias=False),
    ConvShape("resnet50-c5-1x1", 1, 2048, 512, (7, 7), (1, 1), bias=False),
)

# Number of scores: one small layer, ResNet-50's largest, VGG-19's convolutions, ResNet-50 whole.
TOPK_SIZES = (36_864, 2_359_296, 20_018_880, 25_502_912)
