"""Tiny nets with search blocks, and an optimizer and an average that have seen a few steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from supertickets.search.masks import masked_convolutions_
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, build_model
from supertickets.training.ema import Ema

OPTIONS: dict[str, Any] = {
    "stem": [[4, 1]],
    "stages": [[[1, 4], [1, 6]]],
    "expansion": 2.0,
    "head_channels": [6, 8],
    "last_channels": 10,
}
CLASSES = 10


def tiny(seed: int = 0, **options: Any) -> nn.Module:
    """A net of two branches for ``[N, 1, 8, 8]``, without masks."""
    config = ModelConfig(space="hrnet", name="hrnet-small-cls", options={**OPTIONS, **options})
    return build_model(config, num_classes=CLASSES, channels=1, seed=seed)


class InvertedResidual(nn.Module):
    """MobileNetV2's block, as torchvision has it but for the names of its parts."""

    def __init__(self, channels: int, outputs: int, stride: int, *, gated: bool = False) -> None:
        super().__init__()
        hidden = 3 * channels
        self.expand = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
        )
        if gated:
            self.se: nn.Module = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(hidden, 2, 1), nn.Conv2d(2, hidden, 1)
            )
        self.project = nn.Sequential(
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.residual = stride == 1 and channels == outputs

    def forward(self, x: Tensor) -> Tensor:
        inside = self.depthwise(self.expand(x))
        if hasattr(self, "se"):
            inside = inside * self.se(inside).sigmoid()
        y = self.project(inside)
        return x + y if self.residual else y


def mobile(seed: int = 0, *, gated: bool = False) -> nn.Module:
    """A MobileNetV2 of three blocks for ``[N, 1, 8, 8]``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            InvertedResidual(4, 6, 2, gated=gated),
            InvertedResidual(6, 6, 1, gated=gated),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, CLASSES),
        )


def images(count: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=generator(seed, "images"))


def step(model: nn.Module, optimizer: optim.Optimizer, x: Tensor, ema: Ema | None = None) -> None:
    """One optimizer step in train mode."""
    model.train()
    optimizer.zero_grad()
    labels = torch.arange(len(x)) % CLASSES
    F.cross_entropy(model(x), labels).backward()
    optimizer.step()
    if ema is not None:
        ema.update(model)


def trained(model: nn.Module, *, steps: int = 3) -> tuple[nn.Module, optim.Optimizer, Ema]:
    """Mask the model, and give it with an optimizer and an average that have state."""
    masked_convolutions_(model)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    ema = Ema(model, [name for name, _ in model.named_parameters()], 0.9)
    for number in range(steps):
        step(model, optimizer, images(seed=number), ema)
    return model, optimizer, ema


def copied(
    model: nn.Module, optimizer: optim.Optimizer, ema: Ema
) -> tuple[nn.Module, optim.Optimizer, Ema]:
    """Copy all three, still belonging together."""
    import copy

    both: tuple[nn.Module, optim.Optimizer, Ema] = copy.deepcopy((model, optimizer, ema))
    return both
