"""A small choice space of plain blocks."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from supertickets.spaces import BlockSpace


def conv_block(inputs: int, outputs: int, kernel: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def head() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def block_space() -> BlockSpace:
    """Twelve paths: three operations, then twice two."""
    return BlockSpace(
        "blocks",
        stem=conv_block(1, 4, 3),
        layers={
            "stage1.0": {"k1": conv_block(4, 4, 1), "k3": conv_block(4, 4, 3), "skip": nn.Identity},
            "stage2.0": {"k3": conv_block(4, 8, 3), "k5": conv_block(4, 8, 5)},
            "stage2.1": {"k3": conv_block(8, 8, 3), "k5": conv_block(8, 8, 5)},
        },
        head=head,
        image_shape=(1, 8, 8),
    )
