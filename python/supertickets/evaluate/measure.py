"""The figures of any task, under names that histories, tickets and pages share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from supertickets.evaluate.classification import classification
from supertickets.evaluate.keypoints import keypoints
from supertickets.evaluate.segmentation import segmentation
from supertickets.tasks import TaskName, get_task


def measure(
    task: TaskName,
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Measure a network on one split.

    Args:
        task: What it does.
        model: On ``device`` already.
        loader: Batches of images and the task's targets.
        device: Where the batches are moved.

    Returns:
        ``accuracy`` and ``correct``; or ``miou``, ``macc`` and ``aacc``; or ``ap``, ``ap50``,
        ``ap75`` and ``oks``; and with each ``loss`` and ``count``. The first is the task's metric.

    Raises:
        ConfigError: There is no such task.
        InputError: The loader is empty, or its targets do not fit the model.
        RunError: The model gave NaN or infinity.
    """
    name = get_task(task).name
    if name == "classification":
        found = vars(classification(model, loader, device=device))
    elif name == "segmentation":
        found = vars(segmentation(model, loader, device=device))
        found = {key: found[key] for key in ("miou", "macc", "aacc", "loss", "count")}
    else:
        found = vars(keypoints(model, loader, device=device))
    return dict(found)
