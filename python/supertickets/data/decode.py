"""Image files to pixels of one size, with Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from supertickets.data.augment import crop_boxes
from supertickets.errors import DataError

_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
_GREY_MODES = ("1", "L", "LA", "La")
_ALPHA_MODES = ("RGBA", "PA", "LA", "La")


@dataclass(frozen=True)
class ImageFacts:
    """What the head of an image file says.

    Attributes:
        height: Pixels.
        width: Pixels.
        grey: Whether the file is plain 8-bit grey (Pillow's mode L).
    """

    height: int
    width: int
    grey: bool


def image_facts(path: str) -> ImageFacts:
    """Read size and mode of an image without decoding it.

    Raises:
        DataError: The file is no image, or not of 8 bits per channel.
    """
    with opened(path) as image:
        return ImageFacts(height=image.height, width=image.width, grey=image.mode == "L")


@dataclass(frozen=True)
class Decoder:
    """Decodes an image file to ``channels`` x ``height`` x ``width``.

    Transparent parts become white. Without a random crop the image is resized, keeping its aspect
    ratio, so that it covers ``enlarge`` times the wanted size, and the centre is cut out.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height: Pixels.
        width: Pixels.
        enlarge: How much larger than the cut the image is made.
    """

    channels: int
    height: int
    width: int
    enlarge: float = 1.0

    def __call__(self, path: str, draws: Tensor | None = None) -> Tensor:
        """Decode one file.

        Args:
            path: The file.
            draws: ``[1, 5]`` random numbers for a random resized crop of the full image; ``None``
                for the centre.

        Returns:
            ``[C, H, W]`` uint8.

        Raises:
            DataError: The file is damaged or no image.
        """
        with opened(path) as image:
            pixels = to_mode(image, "L" if self.channels == 1 else "RGB")
        box = self._centre(pixels.height, pixels.width)
        if draws is not None:
            top, left, tall, wide = crop_boxes(pixels.height, pixels.width, draws)[0].tolist()
            box = (left, top, min(left + wide, pixels.width), min(top + tall, pixels.height))
        if pixels.size != (self.width, self.height) or box != (0, 0, *pixels.size):
            size = (self.width, self.height)
            pixels = pixels.resize(size, Image.Resampling.BILINEAR, box=box)
        array = np.asarray(pixels).reshape(self.height, self.width, self.channels)
        return torch.from_numpy(array.transpose(2, 0, 1).copy())

    def _centre(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Give the central part (left, top, right, bottom) that is resized to the wanted size."""
        scale = self.enlarge * max(self.height / height, self.width / width)
        tall, wide = self.height / scale, self.width / scale
        left, top = (width - wide) / 2, (height - tall) / 2
        return left, top, left + wide, top + tall


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert to 8-bit grey or RGB, on white where the image is transparent."""
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """Open an image file; whatever Pillow finds wrong with it names the file."""
    try:
        with Image.open(path) as image:
            if image.mode not in _COLOUR_MODES + _GREY_MODES:
                raise DataError(
                    f"{path}: 8 bits per channel are expected, got Pillow mode {image.mode!r}"
                )
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: no readable image: {error}") from error
