"""One loss per image, for each task."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from supertickets.errors import InputError
from supertickets.tasks.heatmaps import draw_heatmaps

IGNORED = 255
"""The value of a mask's pixel of which no class is known."""


def image_cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, mean: bool = False
) -> Tensor:
    """Cross-entropy of each image.

    Args:
        logits: ``[N, classes]``.
        labels: int64 ``[N]``.
        label_smoothing: In ``[0, 1)``.
        mean: Give the mean over images, as torch itself computes it.

    Returns:
        ``[N]``, or a scalar, in nats.

    Raises:
        InputError: The shapes do not fit, or a label has no output.
    """
    reduction = "mean" if mean else "none"
    try:
        return F.cross_entropy(logits, labels, reduction=reduction, label_smoothing=label_smoothing)
    except (IndexError, ValueError) as error:
        raise InputError(
            f"classification: the model gives {list(logits.shape)} for {len(labels)} images with "
            f"labels up to {int(labels.max())}; expected an output per class"
        ) from error


def pixel_cross_entropy(logits: Tensor, masks: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each image, the mean over its pixels that count.

    Args:
        logits: ``[N, classes, h, w]``; resized (bilinear) to the masks.
        masks: int64 ``[N, H, W]``; pixels with :data:`IGNORED` do not count.
        label_smoothing: In ``[0, 1)``.

    Returns:
        ``[N]``, in nats; 0 where no pixel counts.

    Raises:
        InputError: The shapes do not fit, or a pixel's class has no output.
    """
    if logits.dim() != 4 or masks.dim() != 3 or len(logits) != len(masks):
        raise InputError(
            f"segmentation: expected logits [{len(masks)}, classes, h, w] for masks "
            f"{list(masks.shape)}, the model gave {list(logits.shape)}"
        )
    logits = logits_at(logits, (masks.shape[1], masks.shape[2]))
    try:
        losses = F.cross_entropy(
            logits, masks, ignore_index=IGNORED, reduction="none", label_smoothing=label_smoothing
        )
    except IndexError as error:
        worst = int(masks[masks != IGNORED].max())
        raise InputError(
            f"segmentation: a mask has class {worst}, beyond the model's {logits.shape[1]} classes"
        ) from error
    counted = (masks != IGNORED).sum((1, 2))
    return losses.sum((1, 2)) / counted.clamp(min=1)


def logits_at(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits ``[N, C, h, w]``, bilinear, to height and width; those of the size are kept."""
    if logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def joint_squared_error(heatmaps: Tensor, joints: Tensor, *, image_size: tuple[int, int]) -> Tensor:
    """Half the squared error of each image's heat-maps, the mean over pixels and joints.

    A joint that is not labelled (visibility 0) adds nothing, yet counts in the mean over joints.

    Args:
        heatmaps: ``[N, joints, h, w]``, of the whole image at any resolution.
        joints: ``[N, joints, 4]``, see :data:`supertickets.tasks.TASKS`.
        image_size: Height and width of the images that ``joints`` are in.

    Returns:
        ``[N]``.

    Raises:
        InputError: The shapes do not fit.

    Source: Xiao et al. 2018, "Simple baselines for human pose estimation"; the half is that of its
    code and its successors', whose learning rates and penalties this keeps comparable.
    """
    if heatmaps.dim() != 4 or heatmaps.shape[:2] != joints.shape[:2] or joints.shape[2] != 4:
        raise InputError(
            f"keypoints: expected heat-maps [{', '.join(map(str, joints.shape[:2]))}, h, w] for "
            f"joints {list(joints.shape)}, the model gave {list(heatmaps.shape)}"
        )
    size = (heatmaps.shape[2], heatmaps.shape[3])
    wanted = draw_heatmaps(joints, image_size=image_size, size=size)
    errors = (heatmaps.float() - wanted).square().mean((2, 3))
    return (errors * (joints[:, :, 2] > 0)).mean(1) / 2
