"""Images and targets of one split: held in memory, or decoded when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from supertickets.data.augment import resized_crop
from supertickets.data.decode import Decoder
from supertickets.errors import DataError

_RESIZE_CHUNK = 4096

Stored = TypeVar("Stored")


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

    uniform = True

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

    uniform = True

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
        """Decode the files of each block of sample indices, as :meth:`SampleSplit.read` does."""
        return _decoded(self, blocks, crops, workers)

    def decode(self, index: int, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decode one file; give its pixels and its label."""
        return self.decoder(self.files[index], draws), self.labels[index]


Sample = TypeVar("Sample", contravariant=True)


class SampleDecoder(Protocol[Sample]):
    """Turns a sample, such as a pair of files, into an image and its target."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width that a training image is cut to."""

    @property
    def files_differ(self) -> bool:
        """Whether images without random variation may differ in size."""

    def __call__(self, sample: Sample, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decode; ``draws``, ``[1, 5]``, varies the image, ``None`` leaves it as it is.

        Raises:
            DataError: A file is damaged, or its annotation does not fit it.
        """


@dataclass(frozen=True)
class SampleSplit(Generic[Stored]):
    """Samples with targets of their own, decoded when they are needed.

    Attributes:
        samples: N of what the decoder takes.
        labels: ``[N]`` int64, by which samples are divided in shares.
        decoder: Turns a sample into image and target.
    """

    samples: Sequence[Stored]
    labels: Tensor
    decoder: SampleDecoder[Stored]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def files(self) -> list[str]:
        """What tells this split from another."""
        return [str(sample) for sample in self.samples]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a training image."""
        return self.decoder.shape

    @property
    def uniform(self) -> bool:
        """Whether all images have one size, so that a batch can hold several as they are."""
        return not self.decoder.files_differ

    def take(self, indices: Tensor) -> SampleSplit[Stored]:
        """Select samples by index."""
        samples = [self.samples[i] for i in indices.tolist()]
        return SampleSplit(samples, self.labels[indices], self.decoder)

    def in_memory(self, workers: int = 0) -> MemorySplit:
        """Decode all samples once.

        Args:
            workers: Processes that decode; 0 decodes in this one.

        Raises:
            DataError: A file is damaged, or its annotation does not fit it.
        """
        blocks = torch.arange(len(self)).split(64)
        images, targets = zip(*self.read(blocks, workers=workers), strict=True)
        return MemorySplit(torch.cat(images), self.labels, torch.cat(targets))

    def read(
        self, blocks: Sequence[Tensor], crops: Tensor | None = None, workers: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode each block of sample indices.

        Args:
            blocks: ``[B]`` sample indices each.
            crops: ``[N, 5]``, the epoch's draws, for random variation; ``None``: as they are.
            workers: Processes that decode ahead; the images do not depend on it.

        Yields:
            ``[B, C, H, W]`` uint8, and targets ``[B, ...]``.

        Raises:
            DataError: A file is damaged or no image.
        """
        return _decoded(self, blocks, crops, workers)

    def decode(self, index: int, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decode one sample."""
        return self.decoder(self.samples[index], draws)


Split = MemorySplit | FileSplit | SampleSplit[Any]
_Block = tuple[Tensor, Tensor]


def _decoded(
    split: FileSplit | SampleSplit[Any],
    blocks: Sequence[Tensor],
    crops: Tensor | None,
    workers: int,
) -> Iterator[_Block]:
    decoding = _Decoding(split, blocks, crops)
    # The generator only keeps the workers' base seed away from the global one: none is used.
    batches: Iterator[_Block | DataError] = iter(
        DataLoader(decoding, batch_size=None, num_workers=workers, generator=torch.Generator())
    )
    try:
        for batch in batches:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        del batches  # ends the workers now; a traceback that holds this frame would keep them


class _Decoding(Dataset[_Block | DataError]):
    """One item per block of indices; errors are values, so that they cross processes whole."""

    def __init__(
        self, split: FileSplit | SampleSplit[Any], blocks: Sequence[Tensor], crops: Tensor | None
    ) -> None:
        self._split = split
        self._blocks = blocks
        self._crops = crops

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, number: int) -> _Block | DataError:
        block = self._blocks[number]
        crops = None if self._crops is None else self._crops[block]
        try:
            pairs = [
                self._split.decode(index, None if crops is None else crops[row : row + 1])
                for row, index in enumerate(block.tolist())
            ]
        except DataError as error:
            return error
        images, targets = zip(*pairs, strict=True)
        return torch.stack(images), torch.stack(targets)
