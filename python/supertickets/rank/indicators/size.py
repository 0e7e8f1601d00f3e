"""Parameters and multiply-accumulates: the baselines that every ranking prints."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supertickets.evaluate import model_cost
from supertickets.rank.indicators.registry import indicator


@indicator("params", higher_is_better=True, source="count")
def params(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Count all parameters, batch norm and biases too; higher is better."""
    return float(sum(parameter.numel() for parameter in model.parameters()))


@indicator("macs", higher_is_better=True, source="count")
def macs(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Count the multiply-accumulates of one input (convolutions, linear); higher is better."""
    return float(model_cost(model, inputs[:1]).macs)
