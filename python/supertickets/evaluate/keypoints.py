"""Object keypoint similarity and average precision, for images of one object each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets.evaluate.batches import predictions
from supertickets.tasks import TASKS, decode_heatmaps

OKS_THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
_RECALLS = 101


@dataclass(frozen=True)
class KeypointMetrics:
    """Figures of one split.

    Attributes:
        ap: Average precision, the mean over the similarities 0.5, 0.55, ..., 0.95.
        ap50: At 0.5 alone.
        ap75: At 0.75 alone.
        oks: Mean similarity.
        loss: Mean over images of half the heat-maps' squared error.
        count: Number of images with a labelled joint; others are not counted.
    """

    ap: float
    ap50: float
    ap75: float
    oks: float
    loss: float
    count: int


def keypoints(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    device: str | torch.device = "cpu",
) -> KeypointMetrics:
    """Measure a keypoint network on every batch of a loader; one object, one answer per image.

    Args:
        model: ``[N, C, H, W]`` -> heat-maps ``[N, joints, h, w]``, on ``device`` already.
        loader: Batches of images and joints ``[N, joints, 4]``, see
            :data:`supertickets.tasks.TASKS`.
        device: Where the batches are moved.

    Returns:
        The figures. An answer's score is the mean height of its peaks.

    Raises:
        InputError: The loader is empty, no joint is labelled, or heat-maps and joints do not fit.
        RunError: The model gave NaN or infinity.
    """
    count, loss = 0, 0.0
    similarities, scores = [], []
    for heatmaps, joints, size in predictions("keypoints", model, loader, device):
        losses = TASKS["keypoints"].losses(heatmaps, joints, image_size=size)
        loss += float(losses.sum(dtype=torch.float64))
        count += len(joints)
        found = decode_heatmaps(heatmaps, image_size=size)
        labelled = (joints[:, :, 2] > 0).any(1)
        similarities.append(similarity(found, joints)[labelled].cpu())
        scores.append(found[:, :, 2].double().mean(1)[labelled].cpu())
    if count == 0:
        raise InputError("keypoints: the loader gave no image")
    oks, score = torch.cat(similarities), torch.cat(scores)
    if len(oks) == 0:
        raise InputError(f"keypoints: no joint is labelled in any of {count} images")
    by_threshold = [average_precision(oks, score, threshold) for threshold in OKS_THRESHOLDS]
    return KeypointMetrics(
        ap=sum(by_threshold) / len(by_threshold),
        ap50=by_threshold[0],
        ap75=by_threshold[5],
        oks=float(oks.mean()),
        loss=loss / count,
        count=len(oks),
    )


def similarity(found: Tensor, joints: Tensor) -> Tensor:
    """Give each image's object keypoint similarity, the mean over its labelled joints.

    Args:
        found: ``[N, J, 2 or more]``, x and y.
        joints: ``[N, J, 4]``, see :data:`supertickets.tasks.TASKS`.

    Returns:
        float64 ``[N]`` in ``[0, 1]``; 0 where no joint is labelled.

    Source: COCO, https://cocodataset.org/#keypoints-eval. Its ``exp(-d^2 / (2 s^2 k^2))`` is
    written with the distance ``s * k`` that each joint carries.
    """
    x, y, visible, distance = joints.double().unbind(2)
    apart = (found[:, :, 0].double() - x).square() + (found[:, :, 1].double() - y).square()
    each = torch.exp(-apart / (2 * distance.square()))
    labelled = visible > 0
    return (each * labelled).sum(1) / labelled.sum(1).clamp(min=1)


def average_precision(oks: Tensor, scores: Tensor, threshold: float) -> float:
    """Give the area under precision over recall, where each image has one object and one answer.

    Args:
        oks: ``[N]``, similarity of each answer.
        scores: ``[N]``, by which answers are ranked; equal scores stay in order.
        threshold: The least similarity of a right answer.

    Returns:
        The mean of the largest precision at or beyond each of 101 recalls.

    Source: COCO's evaluation; a right answer is ``oks >= threshold``.
    """
    right = (oks >= threshold)[torch.argsort(scores, descending=True, stable=True)].double()
    found = right.cumsum(0)
    precision = found / torch.arange(1, len(right) + 1)
    best = precision.flip(0).cummax(0).values.flip(0)
    recalls = torch.linspace(0, 1, _RECALLS, dtype=torch.float64)
    place = torch.searchsorted(found / len(right), recalls)
    reached = place < len(right)
    return float((best[place.clamp(max=len(right) - 1)] * reached).sum() / _RECALLS)
