"""Procedural images of shapes: class, mask and joints of the same images, from a seed, no files.

An image holds one main shape, smaller shapes behind it, and perhaps a bar in front of it, over a
background that changes slowly, with noise. Image ``i`` of a seed is the same whatever the count.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from supertickets.data.source import Source
from supertickets.data.splits import MemorySplit
from supertickets.seeds import generator
from supertickets.tasks import TaskName

SHAPES = ("triangle", "square", "pentagon", "star", "cross", "drop")
JOINTS = ("centre", "top", "right", "bottom", "left")
_MIRRORED_JOINTS = ((2, 4),)

_CHUNK = 256  # images that share a generator: fixed, so that the count changes no image
_AT_ONCE = 64  # images painted together, always as many; took half as long as 256 at once
_SLOW = 4
_ANGLES = 720
_MAIN_NUMBERS, _CLUTTER_NUMBERS = 20, 8
_MAX_TURN = math.pi / 6  # below half of every shape's own symmetry, so that joints are unambiguous
_MAX_CLUTTER = 8

_Images = tuple[Tensor, Tensor, Tensor, Tensor]


class ShapesConfig(BaseModel, extra="forbid"):
    """How many images of shapes there are, and how hard they are.

    Attributes:
        count: Images, of all splits together.
        seed: Decides the images; ``data.split_seed`` only divides them.
        min_radius: Smallest radius of the main shape, as a share of the image's side.
        max_radius: Largest radius of it.
        clutter: Largest number of smaller shapes behind the main one; each image has 0 to this.
        occlusion: Share of the images with a bar across the main shape.
        noise: Standard deviation of the pixels' noise, of a range of 1.
        contrast: Least distance between a shape's colour and the background's mean colour, of a
            range of 1.
        joint_sigma: Of the object keypoint similarity, the same for all joints; COCO's joints have
            0.025 (eye) to 0.107 (hip).
    """

    count: int = Field(default=3000, ge=60)
    seed: int = 0
    min_radius: float = Field(default=0.15, gt=0.02, le=0.45)
    max_radius: float = Field(default=0.3, gt=0.02, le=0.45)
    clutter: int = Field(default=3, ge=0, le=_MAX_CLUTTER)
    occlusion: float = Field(default=0.3, ge=0, le=1)
    noise: float = Field(default=0.1, ge=0, le=1)
    contrast: float = Field(default=0.25, ge=0, le=0.5)
    joint_sigma: float = Field(default=0.1, gt=0, le=1)

    @model_validator(mode="after")
    def _radii_are_ordered(self) -> ShapesConfig:
        if self.min_radius > self.max_radius:
            raise ValueError(
                f"data.shapes: min_radius ({self.min_radius}) must not be above max_radius "
                f"({self.max_radius})"
            )
        return self


def read_shapes(config: ShapesConfig, *, size: int, task: TaskName) -> Source:
    """Draw the images, and what the task asks for.

    Args:
        config: How many, and how hard.
        size: Height and width in pixels.
        task: Chooses the target; the images are the same for all three.

    Returns:
        All images in ``train``: ``[count, 3, size, size]``.
    """
    chunks = [
        _draw_chunk(config, size, number, min(_CHUNK, config.count - number * _CHUNK))
        for number in range(-(-config.count // _CHUNK))
    ]
    images, labels, masks, joints = (
        torch.cat(parts)[: config.count] for parts in zip(*itertools.chain(*chunks), strict=True)
    )
    names: dict[TaskName, tuple[str, ...]] = {
        "classification": SHAPES,
        "segmentation": ("background", *SHAPES),
        "keypoints": JOINTS,
    }
    targets = {"segmentation": masks, "keypoints": joints}.get(task)
    return Source(
        "shapes",
        names[task],
        MemorySplit(images, labels, targets),
        task=task,
        strata=SHAPES,
        mirrored=_MIRRORED_JOINTS if task == "keypoints" else (),
    )


@dataclass(frozen=True)
class _Draws:
    """The random numbers of N images: of the main shape, the clutter, the background, the noise."""

    main: Tensor
    others: Tensor
    slow: Tensor
    noise: Tensor

    def rows(self, start: int, stop: int) -> _Draws:
        """Take the numbers of some of the images."""
        taken = (part[start:stop] for part in (self.main, self.others, self.slow, self.noise))
        return _Draws(*taken)


def _draw_chunk(config: ShapesConfig, size: int, number: int, count: int) -> list[_Images]:
    """Draw the random numbers of one chunk, and at least the first ``count`` of its images."""
    rng = generator(config.seed, "shapes", number)
    draws = _Draws(
        main=torch.rand(_CHUNK, _MAIN_NUMBERS, generator=rng),
        others=torch.rand(_CHUNK, _MAX_CLUTTER, _CLUTTER_NUMBERS, generator=rng),
        slow=torch.rand(_CHUNK, 3, _SLOW, _SLOW, generator=rng),
        noise=torch.randn(_CHUNK, 3, size, size, generator=rng),
    )
    starts = range(0, count, _AT_ONCE)
    return [_paint(config, size, draws.rows(at, at + _AT_ONCE)) for at in starts]


def _paint(config: ShapesConfig, size: int, draws: _Draws) -> _Images:
    """Paint N images.

    Returns:
        uint8 ``[N, 3, S, S]``, int64 ``[N]``, uint8 masks ``[N, S, S]``, joints ``[N, 5, 4]``.
    """
    main = draws.main
    count = len(main)
    base = 0.5 + 0.4 * (main[:, :3] - 0.5)
    smooth = _smoothing(size)
    pixels = base[:, :, None, None] + 0.25 * (smooth @ draws.slow @ smooth.T - 0.5)
    mask = torch.zeros(count, size, size, dtype=torch.uint8)
    present = torch.arange(_MAX_CLUTTER) < (main[:, 3, None] * (config.clutter + 1)).floor()
    for place in range(config.clutter):
        drawn = draws.others[:, place]
        radius = size * config.min_radius * (0.4 + 0.5 * drawn[:, 2])
        shape = _Shape(drawn[:, 3], drawn[:, 4], radius, drawn[:, :2] * size, drawn[:, 5:8])
        shape.paint_(pixels, mask, base, config.contrast, present[:, place])
    span = config.max_radius - config.min_radius
    radius = size * (config.min_radius + span * main[:, 4])
    room = (size - 2 * radius)[:, None]
    centre = radius[:, None] + room * main[:, 7:9]
    shape = _Shape(main[:, 5], main[:, 6], radius, centre, main[:, 9:12])
    shape.paint_(pixels, mask, base, config.contrast, torch.ones(count, dtype=torch.bool))
    barred = main[:, 12] < config.occlusion
    covered = _paint_bar_(pixels, mask, shape, main[:, 13:18], barred)
    joints = shape.joints(config.joint_sigma)
    joints[:, :, 2] = torch.where(_at(covered, joints), 1.0, 2.0)
    pixels = (pixels + config.noise * draws.noise).clamp_(0, 1)
    return pixels.mul_(255).round_().to(torch.uint8), shape.kinds, mask, joints


def _smoothing(size: int) -> Tensor:
    """Give the matrix that enlarges a line of 4 values to ``size``, by cubic interpolation."""
    lines = torch.eye(_SLOW)[None, None]
    return F.interpolate(lines, (size, _SLOW), mode="bicubic", align_corners=True)[0, 0]


class _Shape:
    """One shape in each of N images.

    Args:
        kind: ``[N]`` in ``[0, 1)``, chooses the shape.
        turn: ``[N]`` in ``[0, 1)``, chooses the angle.
        radius: ``[N]``, pixels.
        centre: ``[N, 2]``, x and y in pixels, from the image's corner.
        colour: ``[N, 3]`` in ``[0, 1)``.
    """

    def __init__(
        self, kind: Tensor, turn: Tensor, radius: Tensor, centre: Tensor, colour: Tensor
    ) -> None:
        self.kinds = (kind * len(SHAPES)).long()
        self._turn = (2 * turn - 1) * _MAX_TURN
        self.radius = radius
        self.centre = centre - 0.5  # pixel centres lie at integers
        self._colour = colour

    def paint_(
        self, pixels: Tensor, mask: Tensor, behind: Tensor, contrast: float, present: Tensor
    ) -> None:
        """Paint into images and masks where ``present``; edges are smooth over one pixel."""
        cover = self._cover(pixels.shape[-1]) * present[:, None, None]
        offset = self._colour - 0.5
        far = offset / offset.norm(dim=1, keepdim=True).clamp(min=1e-3)
        colour = behind + far * (contrast + 0.25 * self._colour.mean(1, keepdim=True))
        pixels.lerp_(colour[:, :, None, None].expand_as(pixels), cover[:, None])
        inside = cover > 0.5
        mask.copy_(torch.where(inside, (self.kinds + 1)[:, None, None].to(torch.uint8), mask))

    def joints(self, sigma: float) -> Tensor:
        """Give ``[N, 5, 4]``: x, y, visibility 2, and the similarity's distance in pixels."""
        quarter = torch.arange(4) * (math.pi / 2)  # clockwise from the top
        table = _outlines()
        reach = table[self.kinds][:, [0, _ANGLES // 4, _ANGLES // 2, 3 * _ANGLES // 4]]
        angle = self._turn[:, None] + quarter
        away = (
            torch.stack([angle.sin(), -angle.cos()], 2) * (self.radius[:, None] * reach)[..., None]
        )
        places = self.centre[:, None] + torch.cat([torch.zeros(len(away), 1, 2), away], 1)
        area = table.square().mean(1)[self.kinds] * math.pi * self.radius.square()
        tolerance = (2 * sigma * area.sqrt())[:, None, None].expand(-1, len(JOINTS), 1)
        return torch.cat([places, torch.full_like(tolerance, 2.0), tolerance], 2)

    def _cover(self, size: int) -> Tensor:
        """Give the share of each pixel that the shape covers, ``[N, S, S]``."""
        line = torch.arange(size, dtype=torch.float32)
        dx = line[None, None, :] - self.centre[:, 0, None, None]
        dy = line[None, :, None] - self.centre[:, 1, None, None]
        angle = torch.atan2(dx, -dy) - self._turn[:, None, None]  # 0 is up, clockwise
        bin_ = (angle * (_ANGLES / (2 * math.pi))).round().long() % _ANGLES
        outline = _outlines()[self.kinds].mul(self.radius[:, None])
        reach = outline.gather(1, bin_.flatten(1)).view_as(bin_)
        return (reach - torch.hypot(dx, dy) + 0.5).clamp_(0, 1)


def _outlines() -> Tensor:
    """Give each shape's radius by angle, ``[6, 720]``, largest 1; all are mirror-symmetric."""
    angle = torch.arange(_ANGLES, dtype=torch.float64) * (2 * math.pi / _ANGLES)
    rows = [_polygon(angle, corners) for corners in (3, 4, 5)]
    tooth = (angle * 5 / (2 * math.pi) + 0.5) % 1 - 0.5  # -0.5..0.5 between two notches
    rows.append(0.42 + 0.58 * (1 - 2 * tooth.abs()).pow(1.5))
    arm = (angle + math.pi / 4) % (math.pi / 2) - math.pi / 4
    rows.append(torch.minimum(1 / arm.cos(), 0.34 / arm.sin().abs().clamp(min=1e-9)))
    rows.append(0.62 + 0.38 * torch.exp(4 * (angle.cos() - 1)))
    return torch.stack([row / row.max() for row in rows]).float()


def _polygon(angle: Tensor, corners: int) -> Tensor:
    """Give the radius of a regular polygon with a corner at the top; a square stands on a side."""
    step = 2 * math.pi / corners
    start = step / 2 if corners == 4 else 0.0
    return math.cos(step / 2) / torch.cos((angle + start) % step - step / 2)


def _paint_bar_(
    pixels: Tensor, mask: Tensor, shape: _Shape, drawn: Tensor, present: Tensor
) -> Tensor:
    """Lay a bar of one colour over part of the main shape; give where it lies, ``[N, S, S]``.

    The bar is background in the mask.
    """
    size = pixels.shape[-1]
    angle = drawn[:, 0] * math.pi
    line = torch.arange(size, dtype=torch.float32)
    radius = shape.radius
    aside = (2 * drawn[:, 1] - 1) * radius * 0.6
    across = (
        angle.cos()[:, None, None] * (line[None, None, :] - shape.centre[:, 0, None, None])
        + angle.sin()[:, None, None] * (line[None, :, None] - shape.centre[:, 1, None, None])
        - aside[:, None, None]
    )
    covered = (across.abs() < (0.15 * radius)[:, None, None]) & present[:, None, None]
    colour = drawn[:, 2:5, None, None].expand_as(pixels)
    pixels.copy_(torch.where(covered[:, None], colour, pixels))
    mask[covered] = 0
    return covered


def _at(flags: Tensor, joints: Tensor) -> Tensor:
    """Read ``[N, S, S]`` at the pixel of each joint, ``[N, J]``."""
    last = flags.shape[-1] - 1
    column = joints[:, :, 0].round().long().clamp(0, last)
    row = joints[:, :, 1].round().long().clamp(0, last)
    return flags[torch.arange(len(flags))[:, None], row, column]
