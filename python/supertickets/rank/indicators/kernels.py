"""Indicators on the compiled kernels: kappa, linear regions, error of kernel regression."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.rank.indicators.registry import indicator, need_labels
from supertickets.spaces.darts_net import DartsProxyNet
from supertickets.spaces.nasbench201_net import NasBench201Net
from supertickets_ext import condition_number, count_regions, ntk_cross, ntk_gram

_REGION_BATCH = 1000


@indicator(
    "kappa", higher_is_better=False, network="proxy", source="Chen et al. 2021, arXiv 2102.11535"
)
def kappa(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Give the natural log of the condition number of the coupled neural tangent kernel.

    Lower is better; ``inf`` if the kernel's rank is deficient.
    """
    gram = ntk_gram(model, inputs, mode="coupled", dtype=torch.float64)
    found = condition_number(gram, row_dtype=inputs.dtype)
    return math.log(found.value)


@indicator(
    "regions", higher_is_better=True, network="thin", source="Chen et al. 2021, arXiv 2102.11535"
)
def regions(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Count the distinct patterns of activations over the inputs; higher is better.

    Batch norm sees 1000 inputs at a time, as published. Warns if every input has a pattern of its
    own.
    """
    # What these networks run, their candidate decides: repeats share the program of the count.
    cells = isinstance(model, (NasBench201Net, DartsProxyNet))
    structure = model.candidate if cells else None
    return float(count_regions(model, inputs, batch=_REGION_BATCH, structure=structure))


@indicator(
    "regression_error",
    higher_is_better=False,
    needs_labels=True,
    network="proxy",
    source="TEG-NAS, Chen et al. 2021, arXiv 2108.11939",
)
def regression_error(
    model: nn.Module, inputs: Tensor, labels: Tensor | None, generator: torch.Generator
) -> float:
    """Give the mean squared error of kernel regression: half the batch predicts the other half.

    Targets are one-hot less their mean. The kernel is of the weights of the cells (all weights for
    a network without ``cells``). Lower is better; ``inf`` if the kernel cannot be inverted.
    """
    labels = need_labels("regression_error", labels, inputs)
    in_cells = any(name.startswith("cells.") for name, _ in model.named_parameters())

    def chosen(name: str, parameter: nn.Parameter) -> bool:
        return name.endswith("weight") and (not in_cells or name.startswith("cells."))

    train, held = inputs.tensor_split(2)
    classes = int(labels.max()) + 1
    targets, expected = F.one_hot(labels, classes).double().tensor_split(2)
    gram = ntk_gram(model, train, mode="coupled", parameters=chosen, dtype=torch.float64)
    if condition_number(gram, row_dtype=inputs.dtype).rank_deficient:
        return math.inf
    cross = ntk_cross(model, held, train, mode="coupled", parameters=chosen, dtype=torch.float64)
    centred = targets - targets.mean(dim=1, keepdim=True)
    wanted = expected - expected.mean(dim=1, keepdim=True)
    predicted = cross @ torch.linalg.solve(gram, centred)
    return float((predicted - wanted).square().mean())
