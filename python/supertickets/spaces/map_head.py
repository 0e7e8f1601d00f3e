"""What turns the feature maps of a classifier's stages into maps of a task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MapHead(nn.Module):
    """All stages at the resolution of the first, side by side, through two 1x1 convolutions.

    Args:
        widths: Channels of each stage.
        hidden: Channels between the two convolutions.
        outputs: Maps: classes, or joints.

    Source: the head of Sun et al. 2019, "High-resolution representations for labeling pixels and
    regions", section 3 (HRNetV2).
    """

    def __init__(self, widths: Sequence[int], hidden: int, outputs: int) -> None:
        super().__init__()
        self.join = nn.Conv2d(sum(widths), hidden, 1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.relu = nn.ReLU()
        self.classifier = nn.Conv2d(hidden, outputs, 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Give maps ``[N, outputs, h, w]`` at the size of the first of ``[N, C_i, h_i, w_i]``."""
        size = stages[0].shape[2:]
        same = [
            stage
            if stage.shape[2:] == size
            else F.interpolate(stage, size, mode="bilinear", align_corners=False)
            for stage in stages
        ]
        maps: Tensor = self.classifier(self.relu(self.bn(self.join(torch.cat(same, dim=1)))))
        return maps
