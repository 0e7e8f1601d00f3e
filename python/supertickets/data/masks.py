"""An image and its mask, from two files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from supertickets.data.decode import opened, to_mode
from supertickets.errors import DataError
from supertickets.tasks import IGNORED

_SCALES = (0.5, 2.0)
_INDEX_MODES = ("L", "P", "1")
UNKNOWN = -1

MaskPair = tuple[str, str]


@dataclass(frozen=True)
class MaskDecoder:
    """Decodes an image and its index mask; whole, or a random part at a random scale.

    Attributes:
        height: Pixels of a random part; of all files, where they do not differ.
        width: The same.
        classes: int16 ``[256]``: the class of each value of a mask file,
            :data:`supertickets.tasks.IGNORED` where it does not count, -1 where it must not occur.
        values: What may occur in a mask file, for messages.
        files_differ: Whether files may differ in size.
    """

    height: int
    width: int
    classes: Tensor
    values: str
    files_differ: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a training image."""
        return 3, self.height, self.width

    def __call__(self, sample: MaskPair, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decode one pair of files.

        Args:
            sample: Path of the image and of its mask.
            draws: ``[1, 5]`` random numbers for a part of the image at 0.5 to 2 times its size;
                ``None``: all of it.

        Returns:
            ``[3, H, W]`` uint8 and ``[H, W]`` uint8. A part that reaches beyond the image is black
            there, and does not count.

        Raises:
            DataError: A file is damaged, the sizes differ, or the mask holds a foreign value.
        """
        image_file, mask_file = sample
        with opened(image_file) as image:
            pixels = to_mode(image, "RGB")
        mask = self._read_mask(mask_file)
        if mask.size != pixels.size:
            raise DataError(
                f"{mask_file}: {mask.height} x {mask.width} pixels, expected {pixels.height} x "
                f"{pixels.width} as its image {image_file} (height x width)"
            )
        if draws is not None:
            pixels, mask = self._part(pixels, mask, draws)
        elif not self.files_differ and pixels.size != (self.width, self.height):
            raise DataError(
                f"{image_file}: {pixels.height} x {pixels.width} pixels, expected {self.height} x "
                f"{self.width} as the first image (height x width); set data.image_size"
            )
        array = np.asarray(pixels).transpose(2, 0, 1).copy()
        return torch.from_numpy(array), torch.from_numpy(np.array(mask))

    def _read_mask(self, file: str) -> Image.Image:
        """Read a mask with its values turned into classes."""
        with opened(file) as image:
            if image.mode not in _INDEX_MODES:
                raise DataError(
                    f"{file}: a mask with one class number per pixel is expected (grey or "
                    f"palette), got Pillow mode {image.mode!r}"
                )
            found = self.classes.numpy()[np.asarray(image, dtype=np.uint8)]
        if (found == UNKNOWN).any():
            with opened(file) as image:
                value = int(np.asarray(image, dtype=np.uint8)[found == UNKNOWN][0])
            raise DataError(f"{file}: the mask holds {value}, expected {self.values}")
        return Image.fromarray(found.astype(np.uint8))

    def _part(
        self, pixels: Image.Image, mask: Image.Image, draws: Tensor
    ) -> tuple[Image.Image, Image.Image]:
        """Cut out a random part that is ``height`` x ``width`` after scaling."""
        top, left, _, scale, _ = draws[0].double().tolist()
        scale = _SCALES[0] + (_SCALES[1] - _SCALES[0]) * scale
        rows = _line(pixels.height, self.height, scale, top)
        columns = _line(pixels.width, self.width, scale, left)
        box = (columns.start, rows.start, columns.start + columns.length, rows.start + rows.length)
        size = (columns.size, rows.size)
        image = Image.new("RGB", (self.width, self.height))
        image.paste(
            pixels.resize(size, Image.Resampling.BILINEAR, box=box), (columns.place, rows.place)
        )
        target = Image.new("L", (self.width, self.height), IGNORED)
        target.paste(
            mask.resize(size, Image.Resampling.NEAREST, box=box), (columns.place, rows.place)
        )
        return image, target


@dataclass(frozen=True)
class _Line:
    """A stretch of a side: where it starts and how long it is; how many pixels it gives, where."""

    start: float
    length: float
    size: int
    place: int


def _line(side: int, wanted: int, scale: float, draw: float) -> _Line:
    """Choose the stretch that gives ``wanted`` pixels, or all of the side where that gives less."""
    length = wanted / scale
    if length <= side:
        return _Line(draw * (side - length), length, wanted, 0)
    size = max(1, round(side * scale))
    return _Line(0.0, float(side), size, int(draw * (wanted - size + 1)))
