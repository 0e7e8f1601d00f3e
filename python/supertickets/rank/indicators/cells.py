"""Indicators from what cells do to images, one after the other: those of AZ-NAS.

Source: Lee and Ham 2024, arXiv 2403.19232. They are meant to be combined by their ranks. There
they read the evaluation network and noise; with one cell a stage and images they cost a fifth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.errors import InputError
from supertickets.rank.indicators.registry import indicator, scratch

_TINY = 1e-8
_LEAST = 1e-6
_SOURCE = "AZ-NAS, Lee and Ham 2024, arXiv 2403.19232"


@indicator("expressivity", higher_is_better=True, network="shallow", source=_SOURCE)
def expressivity(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Sum over cells the entropy of the spectrum of their output's channel covariance.

    Higher is better.
    """
    return math.fsum(_entropies(model, inputs))


@indicator("progressivity", higher_is_better=True, network="shallow", source=_SOURCE)
def progressivity(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Give the least gain of that entropy from one cell to the next; higher is better."""
    found = _entropies(model, inputs)
    return min(after - before for before, after in itertools.pairwise(found))


@indicator("trainability", higher_is_better=True, network="shallow", source=_SOURCE)
def trainability(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Average over cells ``2 - s - 1 / s``, s the norm of how signs sent back through it arrive.

    Signs are drawn at a cell's output; s is the largest singular value of their mean outer product
    with the gradient at its input, 1 where a cell keeps the size of gradients. Higher is better;
    ``-inf`` if a cell gives back exactly what it was sent.
    """
    model = scratch(model)
    images = _cell_outputs(model, inputs)
    scores = []
    for before, after in itertools.pairwise(images):
        drawn = torch.randint(2, after.shape, generator=generator)
        signs = drawn.to(after.dtype) * 2 - 1
        (arrived,) = torch.autograd.grad(
            after, before, signs, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        if torch.equal(arrived, signs):
            return -math.inf
        side = before.shape[-1] // after.shape[-1]
        sent = signs.permute(1, 0, 2, 3).flatten(1)
        got = F.pixel_unshuffle(arrived, side).permute(1, 0, 2, 3).flatten(1)
        norm = float(torch.linalg.matrix_norm((got @ sent.T / sent.shape[1]).double(), 2))
        scores.append(2 - norm - 1 / (norm + _LEAST))
    return math.fsum(scores) / len(scores)


def _entropies(model: nn.Module, inputs: Tensor) -> list[float]:
    with torch.no_grad():
        return [_entropy(image) for image in _cell_outputs(scratch(model), inputs)]


def _entropy(image: Tensor) -> float:
    rows = image.permute(1, 0, 2, 3).flatten(1).double()
    values = torch.linalg.eigvalsh(torch.cov(rows, correction=0).reshape(len(rows), len(rows)))
    total = values.sum()
    if not total > 0:
        return 0.0
    share = values.clamp_min(0) / total
    return -float((share * (share + _TINY).log()).sum())


def _cell_outputs(model: nn.Module, inputs: Tensor) -> Sequence[Tensor]:
    """Give the images after every cell; residual blocks between stages count as cells.

    Raises:
        InputError: The model has fewer than two ``cells``.
    """
    cells = getattr(model, "cells", ())
    if len(cells) < 2:
        raise InputError("indicator: expected a network with at least two cells in 'cells'")
    found: list[Tensor] = []
    hooks = [
        cell.register_forward_hook(lambda module, args, output: found.append(output))
        for cell in cells
    ]
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
