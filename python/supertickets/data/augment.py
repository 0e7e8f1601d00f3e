"""Random variation of training images; every number comes from (seed, epoch, sample index)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from supertickets.seeds import generator
from supertickets.tasks import IGNORED, TaskName

Augmentation = Literal[
    "none", "crop", "crop-flip", "resized-crop-flip", "scale-crop-flip", "scale-turn-flip"
]
AT_READING: tuple[Augmentation, ...] = ("resized-crop-flip", "scale-crop-flip", "scale-turn-flip")
"""Variations that need the whole file: whoever reads the images does all but the mirror."""

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


def vary(
    images: Tensor,
    targets: Tensor,
    draws: Tensor,
    augmentation: Augmentation,
    *,
    task: TaskName = "classification",
    mirrored: Sequence[tuple[int, int]] = (),
) -> tuple[Tensor, Tensor]:
    """Shift and mirror a batch, masks and joints with their images.

    What :data:`AT_READING` names is but for the mirror the matter of whoever reads the images.

    Args:
        images: ``[N, C, H, W]``.
        targets: Of the task.
        draws: ``[N, 5]``, rows of :func:`draw`.
        augmentation: What to do.
        task: What the targets are. Where a shift brings in nothing, a mask is
            :data:`supertickets.tasks.IGNORED`; a joint that leaves the image is no longer labelled.
        mirrored: Pairs of joints that change places in a mirror.

    Returns:
        Both, of the same shapes and dtypes.
    """
    if augmentation.startswith("crop"):
        rows, columns = _shift_windows(images.shape[2:], draws[:, 0], draws[:, 1])
        images = _shift(images, rows, columns)
        targets = _shift_targets(targets, rows, columns, images.shape[2:], task)
    if augmentation.endswith("flip"):
        flipped = draws[:, 2] < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        targets = _mirror_targets(targets, flipped, images.shape[3], task, mirrored)
    return images, targets


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


def _reach(size: int) -> int:
    """Give how far a side may be shifted: an eighth of it."""
    return max(1, round(size * _PADDING))


def _shift_windows(size: torch.Size, top: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the first row and column, ``[N]`` each, of a window in the padded image."""
    down, across = map(_reach, size)
    return (top * (2 * down + 1)).long(), (left * (2 * across + 1)).long()


def _shift(images: Tensor, rows: Tensor, columns: Tensor, fill: int = 0) -> Tensor:
    """Pad by an eighth of each side and cut the first size out again.

    Source: He et al. 2016, "Deep residual learning", section 4.2 (4 pixels of 32).
    """
    height, width = images.shape[2:]
    down, across = _reach(height), _reach(width)
    padded = F.pad(images, (across, across, down, down), value=fill)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images)), :, rows, columns].contiguous()


def _shift_targets(
    targets: Tensor, rows: Tensor, columns: Tensor, size: torch.Size, task: TaskName
) -> Tensor:
    if task == "segmentation":
        return _shift(targets[:, None], rows, columns, fill=IGNORED)[:, 0]
    if task == "keypoints":
        down, across = map(_reach, size)
        moved = targets.clone()
        moved[:, :, 0] += (across - columns)[:, None]
        moved[:, :, 1] += (down - rows)[:, None]
        return hide_outside(moved, size[0], size[1])
    return targets


def _mirror_targets(
    targets: Tensor,
    flipped: Tensor,
    width: int,
    task: TaskName,
    mirrored: Sequence[tuple[int, int]],
) -> Tensor:
    if task == "segmentation":
        return torch.where(flipped[:, None, None], targets.flip(2), targets)
    if task == "keypoints":
        return torch.where(flipped[:, None, None], mirror_joints(targets, width, mirrored), targets)
    return targets


def mirror_joints(joints: Tensor, width: int, mirrored: Sequence[tuple[int, int]]) -> Tensor:
    """Mirror joints ``[..., J, 4]`` left to right in an image ``width`` pixels wide."""
    order = list(range(joints.shape[-2]))
    for first, second in mirrored:
        order[first], order[second] = second, first
    moved = joints[..., order, :].clone()
    moved[..., 0] = width - 1 - moved[..., 0]
    return moved


def hide_outside(joints: Tensor, height: int, width: int) -> Tensor:
    """Set the visibility of joints outside the image to 0; a pixel reaches half a unit around."""
    x, y = joints[..., 0], joints[..., 1]
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    shown = torch.where(inside, joints[..., 2], torch.zeros_like(x))
    return torch.cat([joints[..., :2], shown[..., None], joints[..., 3:]], -1)
