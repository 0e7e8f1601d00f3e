"""Labelled images of one split: held in memory, or decoded when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from supertickets.data.augment import resized_crop
from supertickets.data.decode import Decoder
from supertickets.errors import DataError

_RESIZE_CHUNK = 4096


@dataclass(frozen=True)
class MemorySplit:
    """Images held in memory.

    Attributes:
        images: ``[N, C, H, W]`` uint8.
        labels: ``[N]`` int64: the classes, or by what else samples are divided in shares.
        targets: What a batch carries where that is not the label: masks ``[N, H, W]`` uint8, or
            joints ``[N, J, 4]`` float32.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, indices: Tensor) -> MemorySplit:
        """Select samples by index."""
        targets = None if self.targets is None else self.targets[indices]
        return MemorySplit(self.images[indices], self.labels[indices], targets)

    def resized(self, size: int) -> MemorySplit:
        """Resize the short side to ``size`` pixels and cut out the central square."""
        height, width = self.images.shape[2:]
        if (height, width) == (size, size):
            return self
        if self.targets is not None:
            raise DataError(
                f"images of {height} x {width} pixels in memory are resized to {size} x {size} for "
                "classification only: their masks or joints are not"
            )
        scale = size / min(height, width)
        shape = [max(size, round(height * scale)), max(size, round(width * scale))]
        top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
        parts = [
            F.interpolate(part, shape, mode="bilinear", antialias=True)[
                :, :, top : top + size, left : left + size
            ]
            for part in self.images.split(_RESIZE_CHUNK)
        ]
        return MemorySplit(torch.cat(parts), self.labels)

    def read(
        self, blocks: Sequence[Tensor], crops: Tensor | None = None, workers: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the images and targets of each block of sample indices.

        Args:
            blocks: ``[B]`` sample indices each.
            crops: ``[N, 5]``, the epoch's draws, for a random resized crop; ``None``: whole images.
            workers: Not used: nothing is decoded.

        Yields:
            ``[B, C, H, W]`` uint8, and ``[B, ...]`` labels or targets.
        """
        targets = self.labels if self.targets is None else self.targets
        for block in blocks:
            images = self.images[block]
            yield (images if crops is None else resized_crop(images, crops[block])), targets[block]


@dataclass(frozen=True)
class FileSplit:
    """Image files that are decoded when they are needed.

    Attributes:
        files: N paths.
        labels: ``[N]`` int64.
        decoder: Turns a file into pixels of one size.
    """

    files: Sequence[str]
    labels: Tensor
    decoder: Decoder

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width after decoding."""
        return self.decoder.channels, self.decoder.height, self.decoder.width

    def take(self, indices: Tensor) -> FileSplit:
        """Select samples by index."""
        files = [self.files[i] for i in indices.tolist()]
        return FileSplit(files, self.labels[indices], self.decoder)

    def in_memory(self, workers: int = 0) -> MemorySplit:
        """Decode all files once.

        Args:
            workers: Processes that decode; 0 decodes in this one.

        Raises:
            DataError: A file is damaged or no image.
        """
        blocks = torch.arange(len(self)).split(64)
        images = [images for images, _ in self.read(blocks, workers=workers)]
        return MemorySplit(torch.cat(images), self.labels)

    def read(
        self, blocks: Sequence[Tensor], crops: Tensor | None = None, workers: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode the files of each block of sample indices.

        Args:
            blocks: ``[B]`` sample indices each.
            crops: ``[N, 5]``, the epoch's draws, for a random resized crop; ``None``: whole images.
            workers: Processes that decode ahead; the images do not depend on it.

        Yields:
            ``[B, C, H, W]`` uint8, and their labels ``[B]``.

        Raises:
            DataError: A file is damaged or no image.
        """
        decoding = _Decoding(self, blocks, crops)
        # The generator only keeps the workers' base seed away from the global one: none is used.
        batches: Iterator[Tensor | DataError] = iter(
            DataLoader(decoding, batch_size=None, num_workers=workers, generator=torch.Generator())
        )
        try:
            for block, batch in zip(blocks, batches, strict=True):
                if isinstance(batch, DataError):
                    raise batch
                yield batch, self.labels[block]
        finally:
            del batches  # ends the workers now; a traceback that holds this frame would keep them


Split = MemorySplit | FileSplit


class _Decoding(Dataset[Tensor | DataError]):
    """One item per block of indices; errors are values, so that they cross processes whole."""

    def __init__(self, split: FileSplit, blocks: Sequence[Tensor], crops: Tensor | None) -> None:
        self._split = split
        self._blocks = blocks
        self._crops = crops

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, number: int) -> Tensor | DataError:
        block = self._blocks[number]
        crops = None if self._crops is None else self._crops[block]
        try:
            images = [
                self._split.decoder(
                    self._split.files[index], None if crops is None else crops[row : row + 1]
                )
                for row, index in enumerate(block.tolist())
            ]
        except DataError as error:
            return error
        return torch.stack(images)
