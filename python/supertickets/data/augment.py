"""Random variation of training images; every number comes from (seed, epoch, sample index)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from supertickets.seeds import generator

Augmentation = Literal["none", "crop", "crop-flip", "resized-crop-flip"]

_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_PADDING = 1 / 8


def draw(count: int, seed: int, epoch: int) -> Tensor:
    """Draw the random numbers of one epoch, a row per sample of the split.

    Args:
        count: Samples in the split.
        seed: The loader's seed.
        epoch: The epoch.

    Returns:
        ``[count, 5]`` float32 in ``[0, 1)``: top, left, flip, area, aspect ratio.
    """
    return torch.rand(count, 5, generator=generator(seed, "augment", epoch))


def vary(images: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
    """Shift and mirror a batch; a resized crop is the matter of whoever reads the images.

    Args:
        images: ``[N, C, H, W]``.
        draws: ``[N, 5]``, rows of :func:`draw`.
        augmentation: What to do.

    Returns:
        ``[N, C, H, W]`` of the same dtype.
    """
    if augmentation.startswith("crop"):
        images = _shift(images, draws[:, 0], draws[:, 1])
    if augmentation.endswith("flip"):
        images = torch.where(draws[:, 2, None, None, None] < 0.5, images.flip(3), images)
    return images


def crop_boxes(height: int, width: int, draws: Tensor) -> Tensor:
    """Choose a random part of each image: a share of its area at a random aspect ratio.

    A side that would exceed the image is shortened to it, so that each sample takes a fixed number
    of random numbers.

    Args:
        height: Pixels.
        width: Pixels.
        draws: ``[N, 5]``, rows of :func:`draw`.

    Returns:
        ``[N, 4]`` float64: top, left, height, width in pixels, inside the image.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", section 6.
    """
    top, left, _, area, ratio = draws.double().unbind(1)
    pixels = (_AREA[0] + (_AREA[1] - _AREA[0]) * area) * height * width
    low, high = map(math.log, _RATIO)
    aspect = torch.exp(low + (high - low) * ratio)
    tall = (pixels / aspect).sqrt().clamp(1, height)
    wide = (pixels * aspect).sqrt().clamp(1, width)
    return torch.stack([top * (height - tall), left * (width - wide), tall, wide], dim=1)


def resized_crop(images: Tensor, draws: Tensor) -> Tensor:
    """Cut a random part out of each image and resize it, bilinear, to the image's own size.

    Args:
        images: ``[N, C, H, W]`` uint8.
        draws: ``[N, 5]``, rows of :func:`draw`.

    Returns:
        ``[N, C, H, W]`` uint8.
    """
    height, width = images.shape[2:]
    top, left, tall, wide = crop_boxes(height, width, draws).float().unbind(1)
    rows = _grid_line(top, tall, height)[:, :, None].expand(-1, -1, width)
    columns = _grid_line(left, wide, width)[:, None, :].expand(-1, height, -1)
    cut = F.grid_sample(
        images.float(),
        torch.stack([columns, rows], dim=3),
        padding_mode="border",
        align_corners=False,
    )
    return cut.round_().clamp_(0, 255).to(torch.uint8)


def _grid_line(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Give ``size`` evenly spaced pixel centres inside each interval, in ``grid_sample``'s unit."""
    centres = (torch.arange(size) + 0.5) / size
    return 2 * (start[:, None] + length[:, None] * centres) / size - 1


def _shift(images: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Pad with zeros by an eighth of each side and cut the first size out again.

    Source: He et al. 2016, "Deep residual learning", section 4.2 (4 pixels of 32).
    """
    height, width = images.shape[2:]
    down, across = (max(1, round(size * _PADDING)) for size in (height, width))
    windows = F.pad(images, (across, across, down, down)).unfold(2, height, 1).unfold(3, width, 1)
    rows, columns = (top * (2 * down + 1)).long(), (left * (2 * across + 1)).long()
    return windows[torch.arange(len(images)), :, rows, columns].contiguous()
