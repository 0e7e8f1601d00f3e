"""What bench_topk_mask needs besides our calls: scores, and the same steps in torch and numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.networks import resnet50

DENSITY = 0.1
MOVE = 0.05  # of the spread of scores, between two updates

Pair = tuple[Tensor, Tensor]


def draw(seed: int = 0) -> torch.Generator:
    """Give a generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(size: int) -> Tensor:
    """Draw scores."""
    return torch.randn(size, generator=draw())


def moved(scores: Tensor, by: float = MOVE) -> Tensor:
    """Add noise of that share of their spread, as a training step would."""
    return scores + by * scores.std() * torch.randn(scores.shape, generator=draw(1))


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda scores: scores,
    "uniform": torch.special.ndtr,
    "tied": lambda scores: (scores * 2).round(),
    "sorted": lambda scores: scores,
    "constant": lambda scores: torch.full_like(scores, 0.5),
    "denormal": lambda scores: scores * 1e-39,
}


def score_pair(name: str, size: int, by: float = MOVE) -> Pair:
    """Draw scores of one shape, and what they become a step later."""
    before = normal(size)
    if name == "sorted":
        before = before.sort().values
    return SHAPES[name](before), SHAPES[name](moved(before, by))


def network_pair() -> tuple[list[Tensor], list[Tensor]]:
    """Draw scores of all 161 parameters of ResNet-50, and what they become a step later."""
    shapes = [parameter.shape for parameter in resnet50().parameters()]
    generator = draw()
    before = [torch.randn(shape, generator=generator) for shape in shapes]
    return before, [s + MOVE * torch.randn(s.shape, generator=generator) for s in before]


def torch_update(mask: Tensor, scores: Tensor, keep: int) -> Pair:
    """Do an update as pruning libraries do: topk, scatter, and counts of what changed."""
    flat = scores.abs().view(-1)
    new = torch.zeros_like(mask).view(-1)
    new = new.scatter_(0, flat.topk(keep, sorted=False).indices, True).view(mask.shape)
    grown, pruned = (new & ~mask).sum(), (mask & ~new).sum()
    mask.copy_(new)
    return grown, pruned


def torch_bounded(mask: Tensor, scores: Tensor, keep: int, fraction: float) -> None:
    """Do that share of the wanted swaps: topk, then the best of what it would grow and prune."""
    magnitude, flat = scores.abs().view(-1), mask.view(-1)
    new = torch.zeros_like(flat)
    new.scatter_(0, magnitude.topk(keep, sorted=False).indices, True)
    missing, surplus = (new & ~flat).nonzero().view(-1), (flat & ~new).nonzero().view(-1)
    count = int(np.ceil(fraction * len(missing)))
    flat[missing[magnitude[missing].topk(count, sorted=False).indices]] = True
    worst = magnitude[surplus].topk(count, largest=False, sorted=False).indices
    flat[surplus[worst]] = False


def torch_rigl(mask: Tensor, weight: Tensor, grad: Tensor, swaps: int) -> None:
    """Do RigL's update as its torch ports do."""
    dropped = torch.where(mask, weight.abs(), torch.inf).topk(swaps, largest=False, sorted=False)
    grown = torch.where(mask, -1.0, grad.abs()).topk(swaps, sorted=False)
    mask[dropped.indices] = False
    mask[grown.indices] = True


def torch_event(masks: list[Tensor], scores: list[Tensor], keep: int) -> None:
    """Rank all layers at once: concatenate, update, and split."""
    joined = torch.cat([mask.view(-1) for mask in masks])
    torch_update(joined, torch.cat([s.view(-1) for s in scores]), keep)
    for mask, part in zip(masks, joined.split([m.numel() for m in masks]), strict=True):
        mask.copy_(part.view(mask.shape))


def torch_nm(weight: Tensor, n: int, m: int) -> Tensor:
    """Mask the n best of each m input channels."""
    groups = weight.abs().unflatten(1, (-1, m))
    best = groups.topk(n, dim=2, sorted=False).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, best, True).flatten(1, 2)


def partition(magnitude: Tensor, keep: int) -> object:
    """Find the threshold alone, as numpy does, on one thread."""
    return np.partition(magnitude.numpy(), len(magnitude) - keep)
