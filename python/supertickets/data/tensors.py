"""Images that a user already holds in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from supertickets.data.augment import Augmentation
from supertickets.data.config import DataConfig
from supertickets.data.load import ImageData, divide
from supertickets.data.source import Source
from supertickets.data.splits import MemorySplit
from supertickets.errors import DataError


def from_tensors(
    images: Tensor,
    labels: Tensor,
    *,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    augment: Augmentation = "none",
    validation_fraction: float = 0.15,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> ImageData:
    """Divide tensors into train, validation and test.

    Args:
        images: ``[N, C, H, W]`` uint8, C 1 or 3.
        labels: ``[N]`` integers from 0; every class needs images.
        class_names: A name per label; by default the numbers.
        mean: Per channel, of pixels in ``[0, 1]``: what the model was trained with. By default
            measured on the train split.
        std: Per channel, given together with ``mean``.
        augment: How training images are varied.
        validation_fraction: Share of each class's remaining images for the validation split.
        test_fraction: Share of each class's images for the test split.
        split_seed: Decides which images go to which split.

    Returns:
        The data set, with splits stratified by class.

    Raises:
        DataError: Shapes or dtypes do not fit, or a class is missing or too small.
        ValueError: A fraction, mean or std is out of range.
    """
    if images.dim() != 4 or images.dtype != torch.uint8 or images.shape[1] not in (1, 3):
        raise DataError(
            "from_tensors: images must be uint8 [N, 1 or 3, H, W], got "
            f"{images.dtype} {tuple(images.shape)}"
        )
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"from_tensors: labels must be {len(images)} integers, got "
            f"{labels.dtype} {tuple(labels.shape)}"
        )
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"from_tensors: labels must start from 0, got {int(labels.min())}")
    classes = int(labels.max()) + 1 if len(labels) else 0
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(classes)))
    if classes > len(names):
        raise DataError(f"from_tensors: label {classes - 1} has no name among {len(names)}")
    config = DataConfig(
        augment=augment,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
    )
    split = MemorySplit(images.cpu(), labels.cpu().long())
    return divide(Source("from_tensors", names, split), config, "tensors")
