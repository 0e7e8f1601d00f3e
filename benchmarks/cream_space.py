"""The space of the distillation study: 108 paths of small convolutional networks, on digits.

It is small enough that every path can be trained alone, and its operations differ: on 500 training
images a stand-alone path reaches between 60 and 97 %.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from supertickets.data import DataConfig, ImageData, load_data
from supertickets.spaces.block_space import BlockSpace
from supertickets.training import TrainConfig

Build = Callable[[], nn.Module]

STEM = 8
WIDTHS = ((8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 16, 1))  # in, out, stride of each layer
CLASSES = 10

ALONE = TrainConfig(epochs=20, batch_size=64, lr=0.1, schedule_unit="step")


def study_space() -> BlockSpace:
    """Give the space: four layers of three operations, the second with a cheap fourth."""
    layers = {
        f"layer{number}": _operations(*width, cheap=number == 2)
        for number, width in enumerate(WIDTHS, 1)
    }
    return BlockSpace(
        "cream-study",
        stem=_conv3(1, STEM, 1),
        layers=layers,
        head=_head,
        image_shape=(1, 8, 8),
    )


def study_data() -> ImageData:
    """Give the digits, most of them kept for the truth: 501 train, 299 choose, 997 test."""
    return load_data(DataConfig(augment="none", test_fraction=0.555, validation_fraction=0.375))


def _operations(channels: int, out: int, stride: int, *, cheap: bool) -> dict[str, Build]:
    operations = {
        "conv3": _conv3(channels, out, stride),
        "separable5": _separable5(channels, out, stride),
        "conv1": _conv1(channels, out, stride),
    }
    return operations | ({"pool": _pool_grouped(channels, out, stride)} if cheap else {})


def _conv3(channels: int, out: int, stride: int) -> Build:
    return lambda: _block(nn.Conv2d(channels, out, 3, stride, 1, bias=False), out)


def _separable5(channels: int, out: int, stride: int) -> Build:
    """A depthwise 5x5 and a pointwise convolution."""

    def build() -> nn.Module:
        depthwise = nn.Conv2d(channels, channels, 5, stride, 2, groups=channels, bias=False)
        pointwise = nn.Conv2d(channels, out, 1, bias=False)
        return _block(nn.Sequential(depthwise, nn.BatchNorm2d(channels), pointwise), out)

    return build


def _conv1(channels: int, out: int, stride: int) -> Build:
    """A 1x1 convolution sees no shape: the bad operation."""
    return lambda: _block(nn.Conv2d(channels, out, 1, stride, bias=False), out)


def _pool_grouped(channels: int, out: int, stride: int) -> Build:
    """An average pool and a 1x1 convolution in four groups."""

    def build() -> nn.Module:
        mix = nn.Conv2d(channels, out, 1, groups=4, bias=False)
        return _block(nn.Sequential(nn.AvgPool2d(3, stride, 1), mix), out)

    return build


def _block(body: nn.Module, out: int) -> nn.Sequential:
    return nn.Sequential(body, nn.BatchNorm2d(out), nn.ReLU())


def _head() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1][1], CLASSES))
