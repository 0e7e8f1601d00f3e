"""Batches of one split, in an order and with a variation that can be had again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from supertickets.data.augment import AT_READING, Augmentation, draw, vary
from supertickets.data.normalise import Normalisation
from supertickets.data.splits import MemorySplit, Split
from supertickets.errors import InputError
from supertickets.seeds import generator
from supertickets.tasks import TaskName

# Images in memory are prepared many small batches at a time: a digits batch alone would spend
# several times its own work on the overhead of the calls. 2**18 floats fit a 1 MiB cache.
_BLOCK_ELEMENTS = 2**18


class Loader:
    """Iterates over the batches of one epoch.

    The order and each image's variation depend on (seed, epoch, sample index) only, not on worker
    processes, ranks or what was iterated before. :meth:`set_epoch` chooses the epoch.

    Attributes:
        batch_size: Samples per batch; the last may have fewer. 1 for whole images that may differ
            in size.
        samples: Samples that one epoch gives on this rank.
    """

    def __init__(
        self,
        split: Split,
        normalisation: Normalisation,
        *,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        shuffle: bool,
        rank: int,
        world_size: int,
        workers: int,
        task: TaskName = "classification",
        mirrored: Sequence[tuple[int, int]] = (),
    ) -> None:
        if batch_size < 1:
            raise InputError(f"loader: batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise InputError(f"loader: rank must be in [0, {world_size}), got {rank}")
        alone = augmentation not in AT_READING and not split.uniform
        self.batch_size = 1 if alone else batch_size
        self._split = split
        self._normalisation = normalisation
        self._seed = seed
        self._augmentation = augmentation
        self._shuffle = shuffle
        self._rank = rank
        self._world_size = world_size
        self._workers = workers
        self._task = task
        self._mirrored = mirrored
        self._epoch = 0
        self._training = shuffle or augmentation != "none"
        self.samples = self._count_samples()

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the epoch's batches.

        Yields:
            Images ``[N, C, H, W]`` float32, normalised, and the task's targets (see
            :data:`supertickets.tasks.TASKS`): labels ``[N]`` int64, masks ``[N, H, W]`` int64, or
            joints ``[N, J, 4]`` float32.
        """
        if self.samples == 0:
            return
        draws = None
        if self._augmentation != "none":
            draws = draw(len(self._split), self._seed, self._epoch)
        crops = draws if self._augmentation in AT_READING else None
        blocks = self._shard().split(self._block_size())
        samples = self._split.read(blocks, crops, self._workers)
        for block, (images, targets) in zip(blocks, samples, strict=True):
            if draws is not None:
                images, targets = vary(
                    images,
                    targets,
                    draws[block],
                    self._augmentation,
                    task=self._task,
                    mirrored=self._mirrored,
                )
            if self._task == "segmentation":
                targets = targets.long()
            yield from zip(
                self._normalisation(images).split(self.batch_size),
                targets.split(self.batch_size),
                strict=True,
            )

    def _count_samples(self) -> int:
        """Count this rank's samples, less a single one that BatchNorm could not train on."""
        share, rest = divmod(len(self._split), self._world_size)
        if not self._training:
            return share + (self._rank < rest)
        share += rest > 0
        single = share > self.batch_size > 1 and share % self.batch_size == 1
        return share - single

    def _shard(self) -> Tensor:
        """Give this rank's sample indices of the epoch, in order."""
        count = len(self._split)
        order = torch.arange(count)
        if self._shuffle:
            order = torch.randperm(count, generator=generator(self._seed, "order", self._epoch))
        places = torch.arange(
            self._rank, self._rank + self.samples * self._world_size, self._world_size
        )
        return order[places % count]

    def _block_size(self) -> int:
        """Give how many samples are prepared at once: whole batches."""
        if not isinstance(self._split, MemorySplit):
            return self.batch_size
        channels, height, width = self._split.shape
        batches = _BLOCK_ELEMENTS // (self.batch_size * channels * height * width)
        return self.batch_size * max(1, batches)
