"""Residual nets for 32 x 32 images, after He et al. 2016, section 4.2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.spaces.map_head import MapHead
from supertickets.tasks import TaskName


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of the paper)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Subsample, and set zero channels on both sides."""
        if self.stride == 1 and self.new_channels == 0:
            return x
        before = self.new_channels // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))


class CifarResNet(nn.Module):
    """ResNet with three stages of ``width``, ``2 * width`` and ``4 * width`` channels.

    Width 16 with 3 or 5 blocks per stage is ResNet-20 or ResNet-32; width 32 is the double-width
    net of Lottery Jackpots. Input ``[N, channels, H, W]``, output ``[N, num_classes]``, or maps
    ``[N, num_classes, H, W]`` where the task is not to classify.

    Args:
        num_classes: Size of the output: classes, or joints.
        channels: Input channels.
        width: Channels of the stem and the first stage.
        num_blocks: Residual blocks of each stage.
        task: Decides the head.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        width: int,
        num_blocks: Sequence[int],
        task: TaskName = "classification",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        first, second, third = num_blocks
        self.layer1 = _stage(width, width, first, stride=1)
        self.layer2 = _stage(width, 2 * width, second, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, third, stride=2)
        if task == "classification":
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.flatten = nn.Flatten()
            self.fc = nn.Linear(4 * width, num_classes)
            self.head = None
        else:
            self.head = MapHead((width, 2 * width, 4 * width), 2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits, or maps, for images ``[N, channels, H, W]``."""
        x = self.relu(self.bn1(self.conv1(x)))
        first = self.layer1(x)
        second = self.layer2(first)
        third = self.layer3(second)
        if self.head is not None:
            maps: Tensor = self.head((first, second, third))
            return maps
        return self.fc(self.flatten(self.avgpool(third)))


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = _Block(inputs, outputs, stride)
    return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))
