"""Indicators from the gradients of the weights: gradient norm, SNIP, GraSP, SynFlow, ZiCo.

Norms and sums run over the weights of convolutions and linear layers that the loss reaches, as in
Abdelfattah et al. 2021 (arXiv 2101.08134), with cross-entropy and batch statistics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.rank.indicators.registry import (
    indicator,
    need_labels,
    scratch,
    weight_layers,
)


@indicator(
    "grad_norm",
    higher_is_better=True,
    needs_labels=True,
    source="Abdelfattah et al. 2021, arXiv 2101.08134",
)
def grad_norm(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Sum the norms of the layers' gradients; higher is better."""
    model = scratch(model)
    gradients, _ = _gradients(model, inputs, need_labels("grad_norm", labels, inputs))
    return float(sum(g.double().norm() for g in gradients))


@indicator(
    "snip", higher_is_better=True, needs_labels=True, source="Lee et al. 2019, arXiv 1810.02340"
)
def snip(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Sum ``|weight * gradient|``; higher is better."""
    model = scratch(model)
    gradients, weights = _gradients(model, inputs, need_labels("snip", labels, inputs))
    pairs = zip(weights, gradients, strict=True)
    return float(sum((w.detach() * g).abs().double().sum() for w, g in pairs))


@indicator(
    "grasp", higher_is_better=True, needs_labels=True, source="Wang et al. 2020, arXiv 2002.07376"
)
def grasp(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Sum ``-weight * (Hessian gradient)`` at temperature 1; higher is better."""
    model = scratch(model)
    labels = need_labels("grasp", labels, inputs)
    gradients, weights = _gradients(model, inputs, labels, create_graph=True)
    agreement = sum(((g * g.detach()).sum() for g in gradients), torch.zeros(()))
    products = torch.autograd.grad(agreement, weights, allow_unused=True)
    pairs = zip(weights, products, strict=True)
    return float(sum(-(w.detach() * p).double().sum() for w, p in pairs if p is not None))


@indicator("synflow", higher_is_better=True, source="Tanaka et al. 2020, arXiv 2006.05467")
def synflow(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Give the log of the sum of ``|weight| * gradient`` of the output for an input of ones.

    All weights are made positive and batch norms left out; float64, so that the sum may reach
    1e308. Higher is better; ``-inf`` if no path joins input and output.
    """
    model = scratch(model).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    hooks = [
        module.register_forward_hook(lambda module, args, output: args[0])
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    weights = [layer.weight for layer in weight_layers(model)]
    total = model(torch.ones_like(inputs[:1], dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    for hook in hooks:
        hook.remove()
    flow = sum(
        float((w.detach() * g).sum()) for w, g in zip(weights, gradients, strict=True)
        if g is not None
    )  # fmt: skip
    return math.log(flow) if flow > 0 else -math.inf


@indicator(
    "zico", higher_is_better=True, needs_labels=True, source="Li et al. 2023, arXiv 2301.11300"
)
def zico(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Sum over layers the log of the sum of ``mean |gradient| / std of gradient`` over two halves.

    Higher is better; weights whose gradient does not vary are left out, as are layers of them.
    """
    model = scratch(model)
    labels = need_labels("zico", labels, inputs)
    halves = zip(inputs.tensor_split(2), labels.tensor_split(2), strict=True)
    first, second = (_gradients(model, x, y)[0] for x, y in halves)
    score = 0.0
    for a, b in zip(first, second, strict=True):
        both = torch.stack([a, b]).double()
        spread = both.std(dim=0, unbiased=False)
        ratio = (both.abs().mean(dim=0) / spread)[spread > 0].sum()
        score += math.log(ratio) if ratio > 0 else 0.0
    return score


def _gradients(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, create_graph: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Give the gradients of the loss, and the weights that they belong to."""
    weights: list[Tensor] = [layer.weight for layer in weight_layers(model)]
    loss = F.cross_entropy(model(inputs), labels)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True, create_graph=create_graph)
    reached = [(g, w) for g, w in zip(gradients, weights, strict=True) if g is not None]
    return [g for g, _ in reached], [w for _, w in reached]
