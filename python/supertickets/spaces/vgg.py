"""Nets without shortcuts: VGG for 32 x 32 images, and the small net for 8 x 8 digits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def vgg_bn(
    *, num_classes: int, channels: int, width: int, num_blocks: Sequence[int]
) -> nn.Sequential:
    """Build VGG with batch norm and one linear layer, as pruning papers use it on CIFAR.

    Args:
        num_classes: Size of the output.
        channels: Input channels.
        width: Channels of the first stage; the five have 1, 2, 4, 8 and 8 times as many.
        num_blocks: 3x3 convolutions of each stage; 2, 2, 4, 4, 4 is VGG-19.

    Returns:
        ``[N, channels, H, W]`` with sides of at least 32 pixels -> ``[N, num_classes]``.
    """
    features: list[nn.Module] = []
    inputs = channels
    for blocks, factor in zip(num_blocks, (1, 2, 4, 8, 8), strict=True):
        for _ in range(blocks):
            features += _conv_bn(inputs, factor * width)
            inputs = factor * width
        features.append(nn.MaxPool2d(2))
    return _classifier(features, inputs, num_classes)


def digits_net(*, num_classes: int, channels: int, width: int) -> nn.Sequential:
    """Build four 3x3 convolutions with batch norm for images of about 8 pixels.

    Args:
        num_classes: Size of the output.
        channels: Input channels.
        width: Channels of the first layer; the others have 2, 2 and 4 times as many.

    Returns:
        ``[N, channels, H, W]`` -> ``[N, num_classes]``.
    """
    features = [
        *_conv_bn(channels, width),
        *_conv_bn(width, 2 * width, stride=2),
        *_conv_bn(2 * width, 2 * width),
        *_conv_bn(2 * width, 4 * width, stride=2),
    ]
    return _classifier(features, 4 * width, num_classes)


def _conv_bn(inputs: int, outputs: int, *, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def _classifier(features: Sequence[nn.Module], inputs: int, num_classes: int) -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(*features))
    model.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("classifier", nn.Linear(inputs, num_classes))
    return model
