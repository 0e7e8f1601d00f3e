"""Pixel statistics, and the normalisation by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from supertickets.data.splits import MemorySplit, Split
from supertickets.seeds import generator

_SAMPLE = 1000


@dataclass(frozen=True)
class Normalisation:
    """``(pixel / 255 - mean) / std`` per channel.

    Attributes:
        mean: Per channel, in ``[0, 1]``.
        std: Per channel; 1 where a channel is constant.
        source: What the figures were computed from.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise ``[N, C, H, W]`` uint8 to float32."""
        shape = (1, -1, 1, 1)
        shift = torch.tensor(self.mean).mul_(255).view(shape)
        scale = torch.tensor(self.std).mul_(255).view(shape)
        return images.float().sub_(shift).div_(scale)


# Of the 1.28 million training images; the figures that published ImageNet weights go with.
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "ImageNet constants")


def measure(train: Split, *, seed: int, workers: int = 0) -> Normalisation:
    """Compute mean and standard deviation of the train split, or of a sample of its files.

    Args:
        train: The train split, after the others were cut off.
        seed: Decides which files are in the sample.
        workers: Processes that decode files.

    Returns:
        The normalisation, exact for up to 1,000 files and for images in memory.
    """
    count = len(train)
    order, source = torch.arange(count), "train split"
    if not isinstance(train, MemorySplit) and count > _SAMPLE:
        order = torch.randperm(count, generator=generator(seed, "statistics"))[:_SAMPLE]
        source = f"{_SAMPLE} of {count} images of the train split"
    blocks = train.read(order.split(256), workers=workers)
    histogram = _histogram(images for images, _ in blocks)
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = histogram.double() / histogram.sum(1, keepdim=True)
    mean = share @ levels
    std = (share * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    std = torch.where(std > 0, std, torch.ones_like(std))
    return Normalisation(tuple(mean.tolist()), tuple(std.tolist()), source)


def _histogram(batches: Iterable[Tensor]) -> Tensor:
    """Count pixels per channel and level, ``[C, 256]`` int64: exact, whatever the batches are."""
    total = torch.zeros(())
    for images in batches:
        counts = [channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]
        total = torch.stack(counts) + total.long()
    return total
