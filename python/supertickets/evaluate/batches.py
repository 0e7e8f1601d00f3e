"""A model's answers to the batches of a loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from supertickets.errors import RunError
from supertickets.evaluate.modes import eval_mode


def predictions(
    what: str,
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    device: str | torch.device,
) -> Iterator[tuple[Tensor, Tensor, tuple[int, int]]]:
    """Run a model over a loader in evaluation mode, without gradients.

    Args:
        what: Names the measurement in messages.
        model: On ``device``; the mode of each of its modules is restored.
        loader: Batches of images and targets.
        device: Where the batches are moved.

    Yields:
        The answers, the targets, both on ``device``, and height and width of the images.

    Raises:
        RunError: The model gave NaN or infinity.
    """
    with eval_mode(model), torch.no_grad():
        for images, targets in loader:
            answers = model(images.to(device))
            bad = int((~torch.isfinite(answers)).flatten(1).any(1).sum())
            if bad:
                raise RunError(
                    f"{what}: the model gave NaN or infinity for {bad} of {len(images)} images"
                )
            yield answers, targets.to(device), (images.shape[2], images.shape[3])
