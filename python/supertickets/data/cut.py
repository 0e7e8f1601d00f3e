"""Dividing a labelled set by class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from supertickets.errors import DataError
from supertickets.seeds import generator


def stratified_cut(
    labels: Tensor, fraction: float, *, seed: int, name: str, class_names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Divide samples in two so that each class has its share in both parts.

    Args:
        labels: ``[N]`` int64.
        fraction: Share of each class that is cut off; at least one sample is, and one remains.
        seed: Decides which ones.
        name: The split that is cut off, for the seed and for messages.
        class_names: A name per label, for messages.

    Returns:
        The rest and the part cut off, as ascending sample indices.

    Raises:
        DataError: A class has fewer than two samples.
    """
    counts = torch.bincount(labels, minlength=len(class_names))
    poor = int(counts.argmin())
    if counts[poor] < 2:
        raise DataError(
            f"class {class_names[poor]!r} has {int(counts[poor])} image(s) left when the {name} "
            "split is cut off; at least 2 are needed"
        )
    take = (counts * fraction).round().long().clamp(min=1).minimum(counts - 1)
    shuffled = torch.randperm(len(labels), generator=generator(seed, "split", name))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    first = counts.cumsum(0) - counts
    place = torch.arange(len(labels)) - first[labels[by_class]]
    chosen = place < take[labels[by_class]]
    return by_class[~chosen].sort().values, by_class[chosen].sort().values


def check_classes(labels: Tensor, class_names: Sequence[str], *, where: str) -> None:
    """Check that training is possible at all.

    Args:
        labels: ``[N]`` int64, of the training images.
        class_names: A name per label.
        where: What was read, for messages.

    Raises:
        DataError: There are fewer than two classes, or a class has no image.
    """
    if len(class_names) < 2:
        raise DataError(f"{where}: at least 2 classes are needed, got {list(class_names)}")
    empty = (torch.bincount(labels, minlength=len(class_names)) == 0).nonzero()
    if len(empty):
        raise DataError(f"{where}: class {class_names[int(empty[0])]!r} has no training image")
