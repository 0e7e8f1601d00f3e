"""Train and evaluation mode for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Give every module its own train or evaluation mode back when the block ends.

    Args:
        model: Some of its modules may be in training mode and others not.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode inside the block, then give every module its own mode back.

    Args:
        model: Some of its modules may be in training mode and others not.
    """
    with modes_restored(model):
        model.eval()
        yield
