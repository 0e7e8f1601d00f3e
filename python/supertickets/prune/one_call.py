"""From a trained model to a ticket in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from supertickets.data import ImageData
from supertickets.errors import InputError, did_you_mean
from supertickets.evaluate import classification
from supertickets.prune.config import JackpotConfig
from supertickets.prune.find import find_jackpot
from supertickets.prune.rates import check_sparsity
from supertickets.ticket import Ticket


def jackpot(
    model: nn.Module,
    data: ImageData,
    sparsity: float = 0.9,
    *,
    architecture: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Ticket:
    """Find a jackpot in a trained model and give it as a ticket.

    Args:
        model: A trained classifier of ``[N, C, H, W]`` images; left untouched.
        data: Images with train, validation and test splits.
        sparsity: Fraction of the masked layers' weights to remove, in ``[0, 1)``.
        architecture: How a ticket's reader builds the dense model; by default the model's class,
            as an import path. It is stored, never imported by itself.
        seed: Decides the batches.
        device: Where the search runs.
        checkpoint: A folder to resume from.
        progress: Show a progress bar.
        options: Any other field of :class:`JackpotConfig`, such as ``epochs=10``.

    Returns:
        The ticket; with ``tune_epochs`` its weights were trained on, otherwise they are the
        model's. Its metrics hold accuracies, density and MACs, dense and sparse.

    Raises:
        InputError: The sparsity, an option or the model is invalid.
    """
    check_sparsity(sparsity)
    config = _config(sparsity, options)
    found = find_jackpot(
        model, data, config, seed=seed, device=device, checkpoint=checkpoint, progress=progress
    )
    tuned = found.tuned is not None
    final = found.tuned or found.model
    return found.to_ticket(
        architecture or _architecture(model, data),
        class_names=data.class_names,
        metrics=_metrics(model, final, data, config, device) | {"retrained": tuned},
        tuned=tuned,
    )


def _config(sparsity: float, options: Mapping[str, Any]) -> JackpotConfig:
    for name in options:
        if name not in JackpotConfig.model_fields:
            near = did_you_mean(name, JackpotConfig.model_fields)
            raise InputError(f"jackpot: unknown option {name!r}{near}")
    try:
        return JackpotConfig(sparsity=sparsity, **options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"jackpot: {where}: {first['msg']}, got {first['input']!r}") from error


def _architecture(model: nn.Module, data: ImageData) -> dict[str, Any]:
    kind = type(model)
    return {
        "space": "import",
        "name": f"{kind.__module__}:{kind.__qualname__}",
        "options": {},
        "num_classes": data.num_classes,
        "channels": data.channels,
        "image_size": list(data.image_size),
    }


def _metrics(
    dense: nn.Module, sparse: nn.Module, data: ImageData, config: JackpotConfig, device: str
) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for split in ("validation", "test"):
        loader = data.loader(split, batch_size=config.batch_size)
        metrics[f"{split}_accuracy"] = classification(sparse, loader, device=device).accuracy
    loader = data.loader("test", batch_size=config.batch_size)
    metrics["dense_test_accuracy"] = classification(dense, loader, device=device).accuracy
    return metrics
