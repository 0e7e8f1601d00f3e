"""The optimizer, and the learning rate as a plain function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn, optim

from supertickets.training.config import TrainConfig

# The shape of the one-cycle policy, as torch.optim.lr_scheduler.OneCycleLR has it.
_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1e-4 / 25


def make_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> optim.Optimizer:
    """Make the optimizer of ``config`` over ``parameters``.

    Args:
        parameters: What is optimised; without ``decay_norms``, weight decay leaves out what has
            one dimension.
        config: The options; momentum is used by SGD and RMSprop.

    Returns:
        A PyTorch optimizer at the peak learning rate.
    """
    chosen = list(parameters)
    groups: list[dict[str, Any]] = [{"params": chosen}]
    if not config.decay_norms:
        groups = [
            {"params": [p for p in chosen if p.dim() > 1]},
            {"params": [p for p in chosen if p.dim() <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
    decay = config.weight_decay
    if config.optimizer == "sgd":
        return optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=decay,
        )
    if config.optimizer == "adam":
        return optim.Adam(groups, lr=config.lr, eps=config.eps, weight_decay=decay)
    if config.optimizer == "adamw":
        return optim.AdamW(groups, lr=config.lr, eps=config.eps, weight_decay=decay)
    return optim.RMSprop(
        groups,
        lr=config.lr,
        alpha=config.rmsprop_alpha,
        eps=config.eps,
        momentum=config.momentum,
        weight_decay=decay,
    )


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Give the learning rate of one optimizer step.

    With ``schedule_unit="epoch"`` the rate is constant inside an epoch, and the cosine schedule is
    ``0.5 * lr * (1 + cos(pi * t / T))`` for epoch ``t = 0 .. T-1``. With ``"step"`` the same
    formula counts optimizer steps. During warm-up, unit ``t`` of ``W`` has ``lr * (t+1) / (W+1)``,
    and the cosine runs over what is left.

    Args:
        config: The options.
        step: Optimizer steps done before this one, from the start of the training.
        steps_per_epoch: Optimizer steps in an epoch.

    Returns:
        The learning rate. Nothing but the arguments matters, so a resumed run has the same.

    Source: cosine, Loshchilov and Hutter 2017 (one period); one-cycle, Smith and Topin 2018, with
    the shape of ``torch.optim.lr_scheduler.OneCycleLR``.
    """
    by_epoch = config.schedule_unit == "epoch"
    unit = 1 if by_epoch else steps_per_epoch
    now = step // steps_per_epoch if by_epoch else step
    total = config.epochs * unit
    warmup = config.warmup_epochs * unit
    if now < warmup:
        return config.lr * (now + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return _cosine(config.lr, 0.0, now - warmup, total - warmup)
    if config.schedule == "one-cycle":
        return _one_cycle(config.lr, now, total)
    if config.schedule == "step":
        passed = sum(step >= epoch * steps_per_epoch for epoch in config.step_epochs)
        return config.lr * config.step_gamma**passed
    if config.schedule == "decay":
        return config.lr * config.step_gamma ** (now // (config.decay_epochs * unit))
    return config.lr


def _cosine(start: float, end: float, now: float, total: float) -> float:
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(now, total) / total))


def _one_cycle(peak: float, now: int, total: int) -> float:
    """Rise to the peak over 30 % of the units, then fall to almost nothing."""
    rise = max(_ONE_CYCLE_RISE * total - 1, 0.0)
    if now < rise:
        return _cosine(peak * _ONE_CYCLE_START, peak, now, rise)
    return _cosine(peak, peak * _ONE_CYCLE_END, now - rise, max(total - 1 - rise, 1.0))
