"""Residual nets for ImageNet, after He et al. 2016; keys as torchvision's, so its weights load."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from supertickets.spaces.map_head import MapHead
from supertickets.tasks import TaskName


class _Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class _Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as in v1.5) and 1x1 convolutions, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNet(nn.Module):
    """ResNet with four stages; ResNet-18 and ResNet-50 at width 64.

    Input ``[N, channels, H, W]``, output ``[N, num_classes]``, or maps ``[N, num_classes, h, w]``
    at the resolution of the first stage where the task is not to classify.

    Args:
        num_classes: Size of the output: classes, or joints.
        channels: Input channels.
        width: Channels of the stem.
        num_blocks: Residual blocks of each stage.
        bottleneck: Blocks of three convolutions (ResNet-50) instead of two (ResNet-18).
        small_input: A 3x3 stem with stride 1 and no pooling, for images of about 32 pixels.
        task: Decides the head.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        width: int,
        num_blocks: Sequence[int],
        bottleneck: bool,
        small_input: bool,
        task: TaskName = "classification",
    ) -> None:
        super().__init__()
        block = _Bottleneck if bottleneck else _Basic
        if small_input:
            self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small_input else nn.MaxPool2d(3, stride=2, padding=1)
        first, second, third, fourth = num_blocks
        out = block.expansion * width
        self.layer1 = _stage(block, width, width, first, stride=1)
        self.layer2 = _stage(block, out, 2 * width, second, stride=2)
        self.layer3 = _stage(block, 2 * out, 4 * width, third, stride=2)
        self.layer4 = _stage(block, 4 * out, 8 * width, fourth, stride=2)
        if task == "classification":
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.flatten = nn.Flatten()
            self.fc = nn.Linear(8 * out, num_classes)
            self.head = None
        else:
            self.head = MapHead((out, 2 * out, 4 * out, 8 * out), out, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits, or maps, for images ``[N, channels, H, W]``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        stages = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            stages.append(x)
        if self.head is not None:
            maps: Tensor = self.head(stages)
            return maps
        return self.fc(self.flatten(self.avgpool(x)))


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
    )


def _stage(
    block: type[_Basic] | type[_Bottleneck], inputs: int, planes: int, blocks: int, *, stride: int
) -> nn.Sequential:
    outputs = planes * block.expansion
    first = block(inputs, planes, stride)
    return nn.Sequential(first, *(block(outputs, planes, 1) for _ in range(blocks - 1)))
