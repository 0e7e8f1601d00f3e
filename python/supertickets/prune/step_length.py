"""How far one optimizer step moves the scores of each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supertickets.prune.config import JackpotConfig
from supertickets.prune.layers import mask_model
from supertickets.prune.search import masked_layers, score_parameter

MEASURED_BATCHES = 20


def step_lengths(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    config: JackpotConfig,
    *,
    device: str = "cpu",
) -> dict[str, float]:
    """Measure the typical way of a score in one step, layer by layer.

    That is the root mean square of the layer's score gradient at the given masks, over the first
    batches, times ``lr / (1 - momentum)``. Layers differ a lot: in a network with batch norm the
    few weights of a nearly empty layer have gradients fifty times those of its neighbours.

    Args:
        model: The dense source; left untouched.
        masks: The first masks by layer name.
        batches: Training batches ``(images [N, C, H, W], labels [N])``; the same in every process.
        config: Reads ``lr`` and ``momentum``.
        device: Where the model is.

    Returns:
        A positive length per layer; 1 for a layer without any gradient, whose scores stand still.
    """
    masked = mask_model(model, masks, {name: torch.zeros(m.shape) for name, m in masks.items()})
    masked = masked.to(device).eval()
    for module in masked.modules():  # batch statistics as in the search, but no dropout
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    scores = [score_parameter(layer) for layer in masked_layers(masked, masks).values()]
    squares, count = torch.zeros(len(scores), dtype=torch.float64), 0
    for images, labels in islice(batches, MEASURED_BATCHES):
        loss = F.cross_entropy(masked(images.to(device)), labels.to(device))
        gradients = torch.autograd.grad(loss, scores)
        squares += torch.stack([g.double().square().mean() for g in gradients]).cpu()
        count += 1
    lengths = (squares / count).sqrt() * config.lr / (1 - config.momentum)
    return {name: x if x > 0 else 1.0 for name, x in zip(masks, lengths.tolist(), strict=True)}
