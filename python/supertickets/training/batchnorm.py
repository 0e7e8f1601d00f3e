"""Batch-norm statistics re-estimated over a number of batches."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from supertickets.errors import InputError
from supertickets.evaluate import eval_mode
from supertickets.training.callback import BatchLoader


def running_statistics(model: nn.Module) -> list[Tensor]:
    """List the running means and variances of a model, as they stand in it."""
    pairs = ((layer.running_mean, layer.running_var) for layer in _tracking_layers(model))
    return [tensor for pair in pairs for tensor in pair if tensor is not None]


@torch.no_grad()
def recalibrate_bn(
    model: nn.Module,
    loader: BatchLoader,
    *,
    batches: int,
    device: str | torch.device = "cpu",
) -> None:
    """Re-estimate running mean and variance as the plain average over the first ``batches``.

    Only the batch-norm layers are in train mode for the pass; everything else (dropout) behaves as
    at inference. Weights, the mode of every module and the momentum of every layer end as they
    were. A model without running statistics is left alone.

    Args:
        model: The model, changed in place, on ``device``.
        loader: Gives ``(images [N, C, H, W], labels [N])``; read from its start.
        batches: How many batches to average over; at most the loader's length is used.
        device: Where the model is.

    Raises:
        InputError: ``batches`` is below 1, or the loader is empty.

    Source: Jacob et al. 2018 and ``torch.optim.swa_utils.update_bn`` (cumulative average).
    """
    if batches < 1:
        raise InputError(f"recalibrate_bn: batches must be at least 1, got {batches}")
    layers = _tracking_layers(model)
    if not layers:
        return
    if len(loader) == 0:
        raise InputError("recalibrate_bn: the loader gives no batches")
    momenta = [layer.momentum for layer in layers]
    with eval_mode(model):
        try:
            for layer in layers:
                layer.train()
                layer.reset_running_stats()
                layer.momentum = None  # PyTorch's spelling of the cumulative average
            for images, _ in islice(iter(loader), batches):
                model(images.to(device))
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


def _tracking_layers(model: nn.Module) -> list[_BatchNorm]:
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
