"""The two clocks: what happens after which epoch."""

from __future__ import annotations

import math

from supertickets.errors import InputError
from supertickets.search.config import TwoInOneConfig

_ROUNDING = 1e-9  # 3 * 0.1 is a little more than 0.3


def sparsity_after(config: TwoInOneConfig, epoch: int) -> float:
    """Give the sparsity that the pruning after an epoch aims at.

    Args:
        config: The options.
        epoch: Epochs finished, from 1.

    Returns:
        ``min(floor(epoch / prune_interval) * prune_step, sparsity)``, or ``sparsity`` at once.

    Source: progressive pruning, You et al. 2022 (SuperTickets), section 3.2.
    """
    if config.arm == "one-shot":
        return config.sparsity
    return min(epoch // config.prune_interval * config.prune_step, config.sparsity)


def keep_count(weights: int, sparsity: float) -> int:
    """Give the number of kept weights, ``weights - floor(sparsity * weights)``."""
    return weights - math.floor(sparsity * weights + _ROUNDING)


def is_search(config: TwoInOneConfig, epoch: int, epochs: int) -> bool:
    """Say whether dead atoms are looked for after an epoch; after the last one always."""
    return epoch % config.search_interval == 0 or epoch == epochs


def is_prune(config: TwoInOneConfig, epoch: int, epochs: int) -> bool:
    """Say whether weights are pruned after an epoch; after the last one always.

    A search comes first where both fall on one epoch. The last search may set masks back to ones,
    and what is pruned after it is the ticket.
    """
    return epoch % config.prune_interval == 0 or epoch == epochs


def penalty_strength(config: TwoInOneConfig, epoch: int) -> float:
    """Give rho during an epoch.

    Args:
        config: The options.
        epoch: Epochs finished before it, from 0.

    Returns:
        0 until ``free_epochs``, ``rho`` from ``warmup_epochs`` on, a line between them.
    """
    if epoch >= config.warmup_epochs:
        return config.rho
    length = config.warmup_epochs - config.free_epochs
    return config.rho * min(max((epoch - config.free_epochs) / max(length, 1), 0.0), 1.0)


def check_reaches(config: TwoInOneConfig, epochs: int) -> None:
    """Refuse a training that ends before the sparsity is reached.

    Raises:
        InputError: The last pruning aims at less than ``sparsity``.
    """
    last = sparsity_after(config, epochs)
    if last + _ROUNDING < config.sparsity:
        raise InputError(
            f"two-in-one: {epochs} epochs with a pruning every {config.prune_interval} end at a "
            f"sparsity of {last:g}, expected {config.sparsity:g}: train longer, prune more often "
            "or by larger steps"
        )
