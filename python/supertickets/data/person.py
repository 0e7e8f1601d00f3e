"""One person of an image, cut out by a box and turned upright or not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from supertickets.data.augment import hide_outside
from supertickets.data.decode import opened, to_mode
from supertickets.errors import DataError

_MARGIN = 1.25  # how much larger than its box a person's part of the image is
_SCALE_REACH = 0.35
_TURN_REACH = math.radians(45)
_TURNED_SHARE = 0.6

Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Person:
    """What an annotation says.

    Attributes:
        file: Path of the image.
        image_id: Its number in the annotations.
        image_size: Its height and width, as annotated.
        box: Left, top, width and height in pixels.
        area: Of the person, in pixels.
        joints: x, y and visibility of each.
    """

    file: str
    image_id: int
    image_size: tuple[int, int]
    box: tuple[float, float, float, float]
    area: float
    joints: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class PersonDecoder:
    """Cuts a person out to one size.

    Attributes:
        height: Pixels.
        width: Pixels.
        sigmas: Of the object keypoint similarity, by joint.
    """

    height: int
    width: int
    sigmas: tuple[float, ...]

    files_differ = False  # every person is cut to one size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return 3, self.height, self.width

    def __call__(self, sample: Person, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decode one person.

        Args:
            sample: The person.
            draws: ``[1, 5]`` random numbers: the scale varies by up to 35 %, and 60 % of the
                persons are turned by up to 45 degrees; ``None``: neither.

        Returns:
            ``[3, H, W]`` uint8, black beyond the image, and joints ``[J, 4]`` float32 (see
            :data:`supertickets.tasks.TASKS`).

        Raises:
            DataError: The file is damaged, or not of the annotated size.
        """
        with opened(sample.file) as image:
            pixels = to_mode(image, "RGB")
        if (pixels.height, pixels.width) != sample.image_size:
            height, width = sample.image_size
            raise DataError(
                f"{sample.file}: {pixels.height} x {pixels.width} pixels, expected {height} x "
                f"{width} as annotated (height x width)"
            )
        scale, turn = 1.0, 0.0
        if draws is not None:
            turned, _, _, wide, angle = draws[0].double().tolist()
            scale = 1 + _SCALE_REACH * (2 * wide - 1)
            turn = _TURN_REACH * (2 * angle - 1) if turned < _TURNED_SHARE else 0.0
        to_image = self.placement(sample, scale=scale, turn=turn)
        cut = pixels.transform(
            (self.width, self.height), Image.Transform.AFFINE, to_image, Image.Resampling.BILINEAR
        )
        array = np.asarray(cut).transpose(2, 0, 1).copy()
        return torch.from_numpy(array), self._joints(sample, to_image)

    def placement(self, sample: Person, *, scale: float = 1.0, turn: float = 0.0) -> Affine:
        """Say where in its image the part lies.

        Args:
            sample: The person.
            scale: How much larger the part is.
            turn: Angle in radians, counter-clockwise.

        Returns:
            ``a, b, c, d, e, f``: the part's point (x, y) is (a x + b y + c, d x + e y + f) of the
            image, where (0, 0) is the corner of the first pixel.
        """
        left, top, wide, tall = sample.box
        # the box grows to the aspect ratio of the part; pixels stay square
        step = scale * _MARGIN * max(wide / self.width, tall / self.height)
        step = max(step, 1e-6)
        centre_x, centre_y = left + wide / 2 + 0.5, top + tall / 2 + 0.5
        a, b = step * math.cos(turn), -step * math.sin(turn)
        d, e = -b, a
        c = centre_x - a * self.width / 2 - b * self.height / 2
        f = centre_y - d * self.width / 2 - e * self.height / 2
        return a, b, c, d, e, f

    def _joints(self, sample: Person, to_image: Affine) -> Tensor:
        """Bring the annotated joints into the part; those outside it are not labelled there."""
        a, b, c, d, e, f = to_image
        points = torch.tensor(sample.joints, dtype=torch.float64)
        matrix = torch.tensor([[a, b], [d, e]], dtype=torch.float64)
        shifted = points[:, :2] + 0.5 - torch.tensor([c, f], dtype=torch.float64)
        places = torch.linalg.solve(matrix, shifted.T).T - 0.5
        step = math.hypot(a, b)
        sigmas = torch.tensor(self.sigmas, dtype=torch.float64)
        distance = 2 * sigmas * math.sqrt(sample.area) / step
        joints = torch.cat([places, points[:, 2:], distance[:, None]], dim=1).float()
        return hide_outside(joints, self.height, self.width)


def to_image(places: Tensor, placement: Affine) -> Tensor:
    """Bring points of a part back into its image.

    Args:
        places: ``[J, 2]``, x and y; pixel centres at whole numbers.
        placement: As :meth:`PersonDecoder.placement` gives it.

    Returns:
        float64 ``[J, 2]``.
    """
    a, b, c, d, e, f = placement
    matrix = torch.tensor([[a, b], [d, e]], dtype=torch.float64)
    return (places.double() + 0.5) @ matrix.T + torch.tensor([c - 0.5, f - 0.5])
