"""The images that networks are scored on, cut from any data set."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from supertickets.data import ImageData
from supertickets.data.splits import MemorySplit
from supertickets.errors import InputError
from supertickets.hashing import digest
from supertickets.seeds import derive_seed, generator

SIDE = 32
CROP = 3
_POOL = 256  # files that are decoded for crops, where images are not in memory


class ScoreImages:
    """Batches for kernels and networks, and crops for the count of regions.

    Args:
        data: Its train split alone is looked at; labels only by indicators that ask for them.
    """

    def __init__(self, data: ImageData) -> None:
        self.data = data
        self._pool: Tensor | None = None
        if data.task != "classification":
            raise InputError(
                f"rank: images of classes are expected, but {data.name} is for {data.task}"
            )
        if min(data.image_size) < CROP:
            raise InputError(
                f"rank: expected images of at least {CROP}x{CROP} pixels, got {data.image_size}"
            )

    @property
    def fingerprint(self) -> str:
        """Hash of what the images are: pixels where they are in memory, otherwise the files."""
        train = self.data.train
        found = hashlib.sha256()
        if isinstance(train, MemorySplit):
            found.update(train.images.contiguous().numpy().tobytes())
        else:
            found.update("\n".join(train.files).encode())
        normalisation = self.data.normalisation
        return digest(
            {
                "pixels": found.hexdigest(),
                "shape": list(train.shape),
                "augmentation": self.data.augmentation,
                "mean": list(normalisation.mean),
                "std": list(normalisation.std),
            }
        )

    def batch(self, count: int, seed: int, *words: str | int) -> tuple[Tensor, Tensor]:
        """Draw shuffled, varied training images.

        Args:
            count: How many.
            seed: The user's seed.
            words: Say what the batch is for; equal words give equal batches.

        Returns:
            ``[count, 3, 32, 32]`` float32, normalised; grey images three times, others resized;
            and the labels, int64 ``[count]``.

        Raises:
            InputError: There are fewer training images.
        """
        if len(self.data.train) < count:
            raise InputError(
                f"rank: a batch takes {count} images, but {self.data.name} has "
                f"{len(self.data.train)} to train on; set rank.ntk_batch and rank.batch"
            )
        loader = self.data.loader(
            "train", batch_size=count, seed=derive_seed(seed, "rank", "batch", *words)
        )
        images, labels = next(iter(loader))
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if images.shape[2:] != (SIDE, SIDE):
            images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        return images.contiguous(), labels

    def crops(self, count: int, seed: int, *words: str | int) -> Tensor:
        """Cut parts of 3x3 pixels, of one channel, out of training images.

        Args:
            count: How many; an image gives a second one when all have given one.
            seed: The user's seed.
            words: As for :meth:`batch`.

        Returns:
            ``[count, 1, 3, 3]`` float32, normalised.
        """
        rng = generator(seed, "rank", "crops", *words)
        images = self._pixels()
        number, channels, height, width = images.shape
        rounds = -(-count // number)
        which = torch.cat([torch.randperm(number, generator=rng) for _ in range(rounds)])[:count]
        channel = torch.randint(channels, (count,), generator=rng)
        top = torch.randint(height - CROP + 1, (count,), generator=rng)
        left = torch.randint(width - CROP + 1, (count,), generator=rng)
        reach = torch.arange(CROP)
        rows, columns = top[:, None] + reach, left[:, None] + reach
        pixels = images[
            which[:, None, None], channel[:, None, None], rows[:, :, None], columns[:, None, :]
        ]
        mean = torch.tensor(self.data.normalisation.mean)[channel, None, None]
        std = torch.tensor(self.data.normalisation.std)[channel, None, None]
        return ((pixels / 255 - mean) / std)[:, None].contiguous()

    def _pixels(self) -> Tensor:
        train = self.data.train
        if isinstance(train, MemorySplit):
            return train.images
        if self._pool is None:
            chosen = torch.randperm(len(train), generator=generator(0, "rank", "pool"))[:_POOL]
            self._pool, _ = next(iter(train.read([chosen], workers=self.data.workers)))
        return self._pool
