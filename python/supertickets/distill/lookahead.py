"""The look-ahead update of the matching network, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def lookahead_gradient(
    parameters: Sequence[nn.Parameter],
    distillation: Callable[[], Tensor],
    held_out: Callable[[], Tensor],
    rho: Tensor,
    *,
    lr: float,
) -> Tensor:
    """Give the derivative of the held-out loss, after one distillation step, by ``rho``.

    The step is ``w' = w - lr * rho * G`` with ``G`` the gradient of the distillation loss. rho is a
    factor of it, so ``dL(w') / drho = -lr * <dL/dw', G>``, and no second derivative is needed.
    Multiplied by ``drho/dtheta`` this is the gradient of the matching network.

    Args:
        parameters: The path's weights; they end with the bits they had.
        distillation: Gives the distillation loss with the weights as they are.
        held_out: Gives the loss on other images with the weights as they are.
        rho: A scalar; only its value is used.
        lr: The student's learning rate.

    Returns:
        A scalar; negative where the teacher helps, so that descent raises rho.

    Source: derived; it agrees with differentiating through the step, see the tests.
    """
    used = [parameter for parameter in parameters if parameter.requires_grad]
    first = torch.autograd.grad(distillation(), used, allow_unused=True)
    pairs = [(p, g) for p, g in zip(used, first, strict=True) if g is not None]
    before = [parameter.detach().clone() for parameter, _ in pairs]
    step = lr * float(rho)
    try:
        with torch.no_grad():
            for parameter, gradient in pairs:
                parameter.sub_(gradient, alpha=step)
        ahead = torch.autograd.grad(held_out(), [p for p, _ in pairs], allow_unused=True)
    finally:
        with torch.no_grad():
            for (parameter, _), value in zip(pairs, before, strict=True):
                parameter.copy_(value)
    inner = [(v * g).sum() for v, (_, g) in zip(ahead, pairs, strict=True) if v is not None]
    return -lr * torch.stack(inner).sum()
