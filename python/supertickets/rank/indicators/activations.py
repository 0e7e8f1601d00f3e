"""Indicators from which units are on: NASWOT and SWAP."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from supertickets.rank.indicators.registry import collect_outputs, indicator, scratch


@indicator("naswot", higher_is_better=True, source="Mellor et al. 2021, arXiv 2006.04647v3")
def naswot(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Give ``log det K``, K the number of units in which two samples agree; higher is better.

    ``-inf`` if two samples agree in all units.
    """
    agree = torch.zeros(len(inputs), len(inputs), dtype=torch.float64)
    for signs in _signs(model, inputs):
        code = signs.float() * 2 - 1  # +-1: a . b = agreements - disagreements, whole numbers
        agree += (code @ code.T + code.shape[1]).double().cpu() / 2
    sign, log_det = torch.linalg.slogdet(agree)
    return float(log_det) if sign > 0 else -math.inf


@indicator("swap", higher_is_better=True, source="Peng et al. 2024, arXiv 2403.04161")
def swap(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Count the distinct patterns of units over the samples; higher is better."""
    columns = torch.cat([signs.T for signs in _signs(model, inputs)])
    return float(distinct_rows(columns))


def distinct_rows(bits: Tensor) -> int:
    """Count the distinct rows of a bool matrix."""
    rows, width = bits.shape
    if rows == 0 or width == 0:
        return min(rows, 1)
    words = []
    for start in range(0, width, 62):
        part = bits[:, start : start + 62].long()
        words.append((part << torch.arange(part.shape[1])).sum(dim=1))
    if len(words) == 1:
        return len(torch.unique(words[0]))
    return len(torch.unique(torch.stack(words, dim=1), dim=0))


def _signs(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Give, of each ReLU that gives images, which units are on: bool ``[N, units]``."""
    model = scratch(model)
    with torch.no_grad(), collect_outputs(model, nn.ReLU) as outputs:
        model(inputs)
    return [output.flatten(1) > 0 for output in outputs if output.dim() == 4]
