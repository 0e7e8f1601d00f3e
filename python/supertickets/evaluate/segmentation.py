"""Mean intersection over union, and accuracies, from one confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets.evaluate.batches import predictions
from supertickets.tasks import IGNORED, TASKS
from supertickets.tasks.losses import logits_at


@dataclass(frozen=True)
class SegmentationMetrics:
    """Figures of one split.

    Attributes:
        miou: Mean, over classes that occur in the masks or the answers, of intersection over union.
        macc: Mean, over classes that occur in the masks, of the share of their pixels found.
        aacc: Share of right pixels among all that count.
        iou: Intersection over union by class; NaN for a class that occurs nowhere.
        loss: Mean over images of the pixels' mean cross-entropy, in nats.
        count: Number of images.
        pixels: Number of pixels that count.
    """

    miou: float
    macc: float
    aacc: float
    iou: tuple[float, ...]
    loss: float
    count: int
    pixels: int


def segmentation(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    device: str | torch.device = "cpu",
) -> SegmentationMetrics:
    """Measure a segmentation network on every batch of a loader, at the size of the masks.

    Args:
        model: ``[N, C, H, W]`` -> logits ``[N, classes, h, w]``, on ``device`` already.
        loader: Batches of images and int64 masks ``[N, H, W]``;
            :data:`supertickets.tasks.IGNORED` does not count.
        device: Where the batches are moved.

    Returns:
        The figures; pixels are counted in whole numbers over the whole split.

    Raises:
        InputError: The loader is empty, no pixel counts, or logits and masks do not fit.
        RunError: The model gave NaN or infinity.
    """
    count, loss = 0, 0.0
    matrix = torch.zeros(0, 0, dtype=torch.int64)
    for logits, masks, size in predictions("segmentation", model, loader, device):
        losses = TASKS["segmentation"].losses(logits.float(), masks, image_size=size)
        loss += float(losses.sum(dtype=torch.float64))
        answers = logits_at(logits, (masks.shape[1], masks.shape[2])).argmax(1)
        counted = confusion(answers, masks, logits.shape[1])
        matrix = counted if count == 0 else matrix + counted
        count += len(masks)
    if count == 0:
        raise InputError("segmentation: the loader gave no image")
    return _figures(matrix, loss / count, count)


def confusion(answers: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Count pixels by true class and answer.

    Args:
        answers: Integers ``[*]`` in ``[0, classes)``.
        masks: Integers of the same shape; :data:`supertickets.tasks.IGNORED` does not count.
        classes: How many there are.

    Returns:
        int64 ``[classes, classes]`` on the CPU; row: true class, column: answer.
    """
    counted = masks != IGNORED
    pairs = masks[counted].long() * classes + answers[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes).cpu()


def _figures(matrix: Tensor, loss: float, count: int) -> SegmentationMetrics:
    counts = matrix.double()
    right, true, told = counts.diagonal(), counts.sum(1), counts.sum(0)
    pixels = int(matrix.sum())
    if pixels == 0:
        raise InputError(f"segmentation: no pixel of {count} masks counts: all are {IGNORED}")
    iou = right / (true + told - right)  # 0 / 0 is NaN: the class occurs nowhere
    return SegmentationMetrics(
        miou=float(iou.nanmean()),
        macc=float((right / true).nanmean()),
        aacc=float(right.sum() / pixels),
        iou=tuple(iou.tolist()),
        loss=loss,
        count=count,
        pixels=pixels,
    )
