"""Accuracy and loss of a classifier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.errors import InputError, RunError
from supertickets.evaluate.modes import eval_mode


@dataclass(frozen=True)
class Metrics:
    """Figures of one split.

    Attributes:
        accuracy: Share of right answers, in ``[0, 1]``.
        loss: Mean cross-entropy in nats.
        count: Number of images.
        correct: Number of right answers.
    """

    accuracy: float
    loss: float
    count: int
    correct: int


def classification(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    device: str | torch.device = "cpu",
) -> Metrics:
    """Measure a classifier on every batch of a loader.

    Args:
        model: ``[N, C, H, W]`` -> logits ``[N, classes]``, on ``device`` already. It is evaluated
            in evaluation mode; the mode of each of its modules is restored.
        loader: Batches of images and int64 labels ``[N]``.
        device: Where the batches are moved.

    Returns:
        The figures; batch losses are summed in float64.

    Raises:
        InputError: The loader is empty, or the logits do not fit the labels.
        RunError: The model gave NaN or infinity.
    """
    count, correct, loss = 0, 0, 0.0
    with eval_mode(model), torch.no_grad():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = model(images)
            _check(logits, labels)
            loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
            correct += int((logits.argmax(dim=1) == labels).sum())
            count += len(labels)
    if count == 0:
        raise InputError("classification: the loader gave no image")
    return Metrics(accuracy=correct / count, loss=loss / count, count=count, correct=correct)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or len(logits) != len(labels):
        raise InputError(
            f"classification: expected logits [{len(labels)}, classes], "
            f"the model gave {list(logits.shape)}"
        )
    if len(labels) and int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"classification: label {int(labels.max())} is beyond the model's "
            f"{logits.shape[1]} classes"
        )
    bad = int((~torch.isfinite(logits)).any(dim=1).sum())
    if bad:
        raise RunError(
            f"classification: the model gave NaN or infinity for {bad} of {len(labels)} images"
        )
