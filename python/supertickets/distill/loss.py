"""The loss of a path that learns from labels and from a teacher."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Give the mean of ``-sum(targets * log_softmax(logits / temperature))``, in nats.

    Args:
        logits: ``[N, classes]``.
        targets: ``[N, classes]`` probabilities, at the same temperature; they get no gradient.
        temperature: Above 1 softens the student; the result is multiplied by its square, so that
            gradients keep their size (Hinton et al. 2015).

    Returns:
        A scalar. With ``targets = softmax(logits)`` it is the entropy of that output.
    """
    log = F.log_softmax(logits.float() / temperature, dim=1)
    return -(targets.detach() * log).sum(dim=1).mean() * temperature**2


def distillation_loss(cross_entropy: Tensor, distillation: Tensor, rho: Tensor) -> Tensor:
    """Give ``(rho * distillation + (2 - rho) * cross_entropy) / 2``.

    The teacher's weight is between 0 and 0.5, and the two weights sum to 1. rho is a number here:
    the matching network learns from held-out images alone, never from this loss.

    Args:
        cross_entropy: With the labels, a scalar.
        distillation: With the teacher's outputs, a scalar.
        rho: In ``[0, 1]``; detached.

    Returns:
        A scalar.

    Source: Peng et al. 2020 and the official code.
    """
    rho = rho.detach()
    return (rho * distillation + (2 - rho) * cross_entropy) / 2
