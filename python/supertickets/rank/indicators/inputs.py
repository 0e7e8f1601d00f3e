"""Indicators from what a change of the input does: Jacobian covariance and Zen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from supertickets.rank.indicators.registry import indicator, scratch

_RIDGE = 1e-5
_MIX = 1e-2


@indicator("jacob_cov", higher_is_better=True, source="Mellor et al. 2020, arXiv 2006.04647v1")
def jacob_cov(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Give ``-sum(log(v + k) + 1 / (v + k))`` of the eigenvalues v of the correlations.

    They are those between the samples' gradients of the summed logits by the input; k = 1e-5.
    Higher is better; ``-inf`` if a sample's gradient is constant.
    """
    x = inputs.detach().clone().requires_grad_(True)
    (jacobian,) = torch.autograd.grad(scratch(model)(x).sum(), x)
    rows = jacobian.flatten(1).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    norms = rows.norm(dim=1, keepdim=True)
    if bool((norms == 0).any()):
        return -math.inf
    rows = rows / norms
    values = torch.linalg.eigvalsh(rows @ rows.T).clamp_min(0) + _RIDGE
    return -float((values.log() + 1 / values).sum())


@indicator("zen", higher_is_better=True, source="Lin et al. 2021, arXiv 2102.01063")
def zen(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Give the log of the change of the last features under a small change of noise inputs.

    Weights and inputs are drawn N(0, 1) from ``generator``; only the shape of ``inputs`` is read.
    The logs of the batch norms' deviations, which normalisation takes away, are added back. Higher
    is better.

    Args:
        model: Has ``features(x)``, the image before pooling.
        inputs: Of the shape to use.
        labels: Not read.
        generator: Draws weights and inputs.
    """
    model = scratch(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(generator=generator)
        x = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
        noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        variances: list[Tensor] = []
        hooks = [
            norm.register_forward_pre_hook(
                lambda module, args: variances.append(
                    args[0].double().var(dim=(0, 2, 3), unbiased=False).mean()
                )
            )
            for norm in norms
        ]
        features = getattr(model, "features")  # noqa: B009  (a network's own method)
        before = features(x)
        for hook in hooks:
            hook.remove()
        after = features(x + _MIX * noise)
    change = float((before - after).double().abs().flatten(1).sum(dim=1).mean())
    if change == 0:
        return -math.inf
    return math.log(change) + sum(0.5 * math.log(v) for v in map(float, variances) if v > 0)
