"""Joints as heat-maps, and back."""

from __future__ import annotations

import torch
from torch import Tensor

_SIGMA_SHARE = 1 / 32  # 2 pixels of a 64-pixel map and 3 of a 96-pixel one, as published
_LEAST_SIGMA = 1.0


def draw_heatmaps(joints: Tensor, *, image_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Draw a Gaussian of height 1 at each labelled joint.

    Args:
        joints: ``[N, J, 3 or more]``: x, y in pixels of the image, visibility.
        image_size: Height and width of the image.
        size: Height and width of the maps, which cover the same area.

    Returns:
        float32 ``[N, J, h, w]``. The standard deviation is 1/32 of the height and at least 1 pixel
        of the map; the centre is not rounded to a pixel. Zero where visibility is 0.

    Source: Sun et al. 2019, "Deep high-resolution representation learning for human pose
    estimation": standard deviation 2 at 64 x 48, 3 at 96 x 72.
    """
    height, width = size
    sigma = max(_LEAST_SIGMA, height * _SIGMA_SHARE)
    x, y, visible = joints[:, :, :3].float().unbind(2)
    across = _one_line(x, image_size[1], width, sigma)
    down = _one_line(y, image_size[0], height, sigma)
    return (visible > 0)[:, :, None, None] * down[:, :, :, None] * across[:, :, None, :]


def decode_heatmaps(heatmaps: Tensor, *, image_size: tuple[int, int]) -> Tensor:
    """Find each map's peak, to a fraction of its pixel.

    The fraction is the top of the parabola through the logarithms of the peak and its neighbours,
    per axis, which is exact for a Gaussian; at a border, or beside a value that is not positive,
    the pixel's centre is taken.

    Args:
        heatmaps: ``[N, J, h, w]``.
        image_size: Height and width of the image that the maps cover.

    Returns:
        float32 ``[N, J, 3]``: x, y in pixels of the image, and the peak's value. Of equal peaks the
        first in reading order.

    Source: Zhang et al. 2020, "Distribution-aware coordinate representation for human pose
    estimation", section 3.2, without its smoothing.
    """
    height, width = heatmaps.shape[2:]
    flat = heatmaps.float().flatten(2)
    peak, place = flat.max(2)
    row, column = place // width, place % width
    x = column + _fraction(flat, place, column, 1, width)
    y = row + _fraction(flat, place, row, width, height)
    scale_x, scale_y = image_size[1] / width, image_size[0] / height
    return torch.stack([(x + 0.5) * scale_x - 0.5, (y + 0.5) * scale_y - 0.5, peak], 2)


def _one_line(places: Tensor, image_length: int, length: int, sigma: float) -> Tensor:
    """Evaluate the Gaussian along one axis, ``[N, J, length]``; pixel centres are at integers."""
    centre = (places + 0.5) * (length / image_length) - 0.5
    line = torch.arange(length, device=places.device, dtype=torch.float32)
    return torch.exp((line - centre[:, :, None]).square() / (-2 * sigma**2))


def _fraction(flat: Tensor, place: Tensor, along: Tensor, step: int, length: int) -> Tensor:
    """Give the parabola's top relative to the peak, in ``[-0.5, 0.5]`` pixels."""
    inside = (along > 0) & (along < length - 1)
    values = [
        flat.gather(2, (place + shift).clamp(0, flat.shape[2] - 1)[:, :, None])[:, :, 0]
        for shift in (-step, 0, step)
    ]
    usable = inside & (torch.stack(values) > 0).all(0)
    before, middle, after = (value.clamp(min=1e-12).log() for value in values)
    bend = before - 2 * middle + after
    fraction = 0.5 * (before - after) / torch.where(bend < 0, bend, torch.full_like(bend, -1.0))
    return torch.where(usable & (bend < 0), fraction.clamp(-0.5, 0.5), torch.zeros_like(fraction))
