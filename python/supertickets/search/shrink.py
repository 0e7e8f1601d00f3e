"""Remove atoms from a network that is being trained, and everything that belongs to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from supertickets.search.atoms import Atoms, detached, parameter_names
from supertickets.spaces.hrnet_block import AtomBlock
from supertickets.training.ema import Ema
from supertickets_ext import global_topk_mask
from supertickets_ext.nn import MaskedConv2d


def alive_atoms(
    atoms: Sequence[Atoms],
    live: Sequence[Tensor],
    averaged: Sequence[Tensor],
    *,
    threshold: float,
    last: bool,
    floor: int,
) -> tuple[list[Tensor], int]:
    """Decide which atoms stay.

    Args:
        atoms: The operations.
        live: Absolute gammas of each.
        averaged: The same of the moving average.
        threshold: An atom stays if either gamma is above it.
        last: The averaged gamma alone decides.
        floor: Atoms that stay in any case, the largest averaged gammas first.

    Returns:
        A bool mask per operation, and how many dead atoms the floor has kept.
    """
    keep = [
        (a > threshold) if last else (a > threshold) | (g > threshold)
        for g, a in zip(live, averaged, strict=True)
    ]
    wanted = sum(int(k.sum()) for k in keep)
    if wanted < floor:
        largest = global_topk_mask(list(averaged), min(floor, sum(a.numel() for a in averaged)))
        keep = [k | most for k, most in zip(keep, largest, strict=True)]
    for one, mask, gamma in zip(atoms, keep, averaged, strict=True):
        if not one.removable and not mask.any():
            mask[gamma.argmax()] = True
    return keep, sum(int(k.sum()) for k in keep) - wanted


@torch.no_grad()
def shrink_(
    model: nn.Module,
    atoms: Sequence[Atoms],
    keep: Sequence[Tensor],
    *,
    optimizer: optim.Optimizer | None = None,
    ema: Ema | None = None,
    followers: Mapping[str, Tensor] | None = None,
    correct: bool = True,
) -> dict[str, Tensor]:
    """Remove atoms; what stays keeps its weights, statistics, mask, moments and averages.

    Parameters stay the same objects with fewer entries. An operation without atoms leaves model,
    optimizer and average; a block without operations becomes its skip (see ``AtomBlock``). An atom
    whose gamma is 0 adds a constant, by which the running mean of the batch norm behind it is
    corrected: the function is kept, in training and in evaluation, as long as its block keeps an
    operation.

    Args:
        model: Changed in place.
        atoms: Its operations.
        keep: A bool mask per operation.
        optimizer: Over the model's parameters.
        ema: Of the model.
        followers: Tensors of the shape of a weight, by the weight's name.
        correct: Whether running means are corrected.

    Returns:
        The followers, less the same entries.
    """
    names = parameter_names(model)
    followed = dict(followers or {})
    averages = ema.tensors if ema is not None else None
    for one, mask in zip(atoms, keep, strict=True):
        if bool(mask.all()):
            continue
        if correct and one.exact:
            _correct_mean(one, ~mask, names, averages)
        if not mask.any():
            _remove_operation(model, one, optimizer, ema, followed)
            continue
        index = mask.nonzero().flatten()
        for module, tensor, dim in one.slices:
            _take(module, tensor, dim, index, names, optimizer, averages, followed)
        _set_sizes(one)
    for name in dict.fromkeys(one.block for one in atoms):
        block = model.get_submodule(name)
        if isinstance(block, AtomBlock) and not block.operations and block.norm is not None:
            _remove_norm(block, name, optimizer, ema)
    for parameter in model.parameters():
        parameter.grad = None
    return followed


def _correct_mean(
    one: Atoms, dead: Tensor, names: Mapping[int, str], averages: Mapping[str, Tensor] | None
) -> None:
    """Take the constant that dead atoms have added out of the running mean behind them."""
    mask = getattr(one.project, "mask", None)

    def constant(weight: Tensor, bias: Tensor) -> Tensor:
        weight = weight if mask is None else weight * mask
        return weight[:, dead].flatten(1) @ one.activation(bias[dead])

    means = one.total.running_mean
    if means is None:
        return
    if averages is not None:
        weight = averages[names[id(one.project.weight)]]
        averages[names[id(means)]] -= constant(weight, averages[names[id(one.gamma.bias)]])
    means -= constant(one.project.weight, one.gamma.bias)


def _take(
    module: nn.Module,
    tensor: str,
    dim: int,
    index: Tensor,
    names: Mapping[int, str],
    optimizer: optim.Optimizer | None,
    averages: dict[str, Tensor] | None,
    followed: dict[str, Tensor],
) -> None:
    value: Tensor = getattr(module, tensor)
    name = names[id(value)]
    if averages is not None and name in averages:
        averages[name] = detached(averages[name], index, dim)
    if name in followed:
        followed[name] = detached(followed[name], index, dim)
    if isinstance(module, MaskedConv2d):
        module.invalidate()  # what it keeps between calls belongs to the old mask
    if not isinstance(value, nn.Parameter):
        setattr(module, tensor, detached(value, index, dim))
        return
    state: dict[str, Any] = optimizer.state.get(value, {}) if optimizer is not None else {}
    for key, moment in state.items():
        if isinstance(moment, Tensor) and moment.shape == value.shape:
            state[key] = detached(moment, index, dim)
    value.data = detached(value, index, dim)


def _set_sizes(one: Atoms) -> None:
    """Tell the modules how many channels they have now."""
    for module, tensor, dim in one.slices:
        size = getattr(module, tensor).shape[dim]
        if isinstance(module, nn.BatchNorm2d):
            module.num_features = size
        elif isinstance(module, nn.Linear) and dim == 1:
            module.in_features = size
        elif isinstance(module, nn.Linear):
            module.out_features = size
        elif isinstance(module, nn.Conv2d) and dim == 1:
            module.in_channels = size
        elif isinstance(module, nn.Conv2d) and tensor == "weight":
            module.out_channels = size
            if module.groups > 1:  # depthwise
                module.in_channels = module.groups = size


def _remove_operation(
    model: nn.Module,
    one: Atoms,
    optimizer: optim.Optimizer | None,
    ema: Ema | None,
    followed: dict[str, Tensor],
) -> None:
    block = model.get_submodule(one.block)
    assert isinstance(block, AtomBlock)
    key = str(one.kernel)
    gone = block.operations[key]
    del block.operations[key]
    if ema is not None:
        for part, _ in [*gone.named_parameters(), *gone.named_buffers()]:
            ema.forget(f"{one.name}.{part}")
    for part, _ in gone.named_parameters():
        followed.pop(f"{one.name}.{part}", None)
    _leave_optimizer(optimizer, list(gone.parameters()))


def _remove_norm(
    block: AtomBlock, name: str, optimizer: optim.Optimizer | None, ema: Ema | None
) -> None:
    norm = block.norm
    assert norm is not None
    block.become_skip()
    if ema is not None:
        ema.rename(f"{name}.norm.bias", f"{name}.shift")
        for part in ("weight", "running_mean", "running_var"):
            ema.forget(f"{name}.norm.{part}")
    _leave_optimizer(optimizer, [norm.weight])


def _leave_optimizer(optimizer: optim.Optimizer | None, gone: Sequence[nn.Parameter]) -> None:
    if optimizer is None:
        return
    ids = {id(parameter) for parameter in gone}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in ids]
    for parameter in gone:
        optimizer.state.pop(parameter, None)


def first_atoms(atoms: Sequence[Atoms], counts: Mapping[str, int]) -> list[Tensor]:
    """Mark the first so many atoms of each operation, by its name; none where it is not named."""
    marks = []
    for one in atoms:
        mask = torch.zeros(one.count, dtype=torch.bool, device=one.gamma.weight.device)
        mask[: counts.get(one.name, 0)] = True
        marks.append(mask)
    return marks
