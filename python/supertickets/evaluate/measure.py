"""The figures of any task, under names that histories, tickets and pages share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from supertickets.data import ImageData
from supertickets.data.coco import PersonSplit
from supertickets.data.load import SplitName
from supertickets.evaluate.classification import classification
from supertickets.evaluate.coco import coco_keypoints
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


def measure_split(
    model: nn.Module,
    data: ImageData,
    split: SplitName,
    *,
    batch_size: int,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Measure a network on one split of a data set, persons of COCO by COCO's own evaluation.

    Args:
        model: On ``device`` already.
        data: Its task decides what is measured.
        split: ``train`` (without variation), ``validation`` or ``test``.
        batch_size: Images per batch.
        device: Where the batches are moved.

    Returns:
        As :func:`measure`.

    Raises:
        InputError: The data does not fit the model.
        RunError: The model gave NaN or infinity, or an optional package is missing.
    """
    if isinstance(getattr(data, split), PersonSplit):
        return coco_keypoints(model, data, split, batch_size=batch_size, device=device)
    loader = data.loader(split, batch_size=batch_size, augment=False, shuffle=False)
    return measure(data.task, model, loader, device=device)
