"""Find a sparse sub-network inside a trained network without changing a weight."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from supertickets.data import ImageData, Loader
from supertickets.errors import InputError, RunError
from supertickets.evaluate import classification, fingerprint, model_cost
from supertickets.prune.config import JackpotConfig
from supertickets.prune.layers import MaskableLayer, mask_model, maskable_layers
from supertickets.prune.masks import expected_overlap, magnitude_masks, overlap
from supertickets.prune.rates import keep_counts, layer_rates
from supertickets.prune.record import MaskMover
from supertickets.prune.result import Jackpot
from supertickets.prune.search import (
    masked_layers,
    score_parameter,
    start_masks,
    start_scores,
)
from supertickets.prune.step_length import step_lengths
from supertickets.spaces import example_input
from supertickets.training import TrainConfig, rank, train, world_size


def find_jackpot(
    model: nn.Module,
    data: ImageData,
    config: JackpotConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Jackpot:
    """Search a mask for a trained network whose weights stand still.

    Only scores are trained, by the straight-through gradient; batch-norm statistics follow the
    masked network. Every layer has exactly ``floor(rate * numel)`` zeros after every step. The
    best epoch is taken by validation accuracy; the test split is never read.

    Args:
        model: A trained classifier of ``[N, C, H, W]`` images; left untouched.
        data: Images; ``train`` is searched on and ``validation`` decides.
        config: The options.
        seed: Decides the batches and, with ``start="random"``, the first mask.
        device: Where the search runs.
        checkpoint: A folder to resume from, written to after every epoch.
        progress: Show a progress bar.

    Returns:
        The jackpot.

    Raises:
        InputError: The data is not for classification, the model has no maskable layer, weights are
            NaN, a layer would lose all its weights, or ``keep_dense`` names an unknown layer.
        RunError: A frozen tensor has changed; this would be a defect.
    Source: Zhang et al., "Lottery Jackpots Exist in Pre-trained Models", arXiv 2104.08700.
    """
    started = time.perf_counter()
    if data.task != "classification":
        raise InputError(
            f"find_jackpot: images of classes are expected, but {data.name} is for {data.task}"
        )
    source = copy.deepcopy(model).to(device)
    layers = maskable_layers(source, config.keep_dense)
    rates = layer_rates(layers, config.sparsity, config.rates)
    scores = _first_scores(source, layers, rates, data, config, seed, device)
    found = mask_model(source, start_masks(layers, rates, scores), scores)
    sha256 = frozen_sha256(source)

    masked = masked_layers(found, list(rates))
    mover = MaskMover(masked, keep_counts(layers, rates), config)
    loader = _train_loader(data, config, seed)
    result = train(
        found,
        loader,
        _search_schedule(config),
        seed=seed,
        evaluate=_validation(data, config.batch_size, device),
        parameters=[score_parameter(layer) for layer in masked.values()],
        callbacks=[mover],
        checkpoint=None if checkpoint is None else checkpoint / "search",
        device=device,
        label=f"jackpot {config.sparsity:.0%} from {config.start}",
        progress=progress,
    )
    for layer in masked.values():
        layer.scores = None
    if frozen_sha256(found) != sha256:
        raise RunError("find_jackpot: a frozen weight, bias or batch-norm tensor has changed")
    tuned, tune_history = _tune(found, data, config, seed, device, checkpoint, progress)
    return Jackpot(
        model=found,
        masks={name: layer.mask.detach().cpu().clone() for name, layer in masked.items()},
        rates=rates,
        config=config,
        seed=seed,
        history=result.history,
        steps=mover.steps,
        best_epoch=result.best_epoch,
        batches=config.epochs * len(loader),
        layers=_layer_rows(source, found, rates, data, device),
        source_sha256=sha256,
        wall_s=time.perf_counter() - started,
        tuned=tuned,
        tune_history=tune_history,
    )


def _first_scores(
    source: nn.Module,
    layers: Mapping[str, MaskableLayer],
    rates: Mapping[str, float],
    data: ImageData,
    config: JackpotConfig,
    seed: int,
    device: str,
) -> dict[str, Tensor]:
    scores = start_scores(layers, rates, config, seed=seed)
    if config.unit == "score":
        return scores
    masks = start_masks(layers, rates, scores)
    # not divided among processes: all must start alike
    loader = data.loader("train", batch_size=config.batch_size, seed=seed)
    lengths = step_lengths(source, masks, loader, config, device=device)
    return start_scores(layers, rates, config, seed=seed, lengths=lengths)


def frozen_sha256(model: nn.Module) -> str:
    """Fingerprint what a search must not change: weights, biases and batch-norm affine tensors.

    Args:
        model: The dense source or the masked model; both give the same.

    Returns:
        SHA-256 over the names and bytes of all parameters but the scores.
    """
    named = model.named_parameters()
    return fingerprint({name: p.detach() for name, p in named if not _is_score(name)})


def _is_score(name: str) -> bool:
    return name == "scores" or name.endswith(".scores")


def _search_schedule(config: JackpotConfig) -> TrainConfig:
    return TrainConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer="sgd",
        lr=config.lr,
        momentum=config.momentum,
        nesterov=False,
        weight_decay=config.weight_decay,
        schedule="cosine",
        schedule_unit="epoch",
        warmup_epochs=0,
        label_smoothing=0.0,
        ema_decay=0.0,
        bn_recalibration_batches=config.bn_batches,
        keep="best",
    )


def _train_loader(data: ImageData, config: JackpotConfig, seed: int) -> Loader:
    return data.loader(
        "train", batch_size=config.batch_size, seed=seed, rank=rank(), world_size=world_size()
    )


def _validation(
    data: ImageData, batch_size: int, device: str
) -> Callable[[nn.Module], Mapping[str, float]]:
    loader = data.loader("validation", batch_size=batch_size)

    def figures(model: nn.Module) -> Mapping[str, float]:
        metrics = classification(model, loader, device=device)
        return {"validation_accuracy": metrics.accuracy, "validation_loss": metrics.loss}

    return figures


def _tune(
    found: nn.Module,
    data: ImageData,
    config: JackpotConfig,
    seed: int,
    device: str,
    checkpoint: Path | None,
    progress: bool,
) -> tuple[nn.Module | None, list[dict[str, float]]]:
    """Train the weights that the mask kept, on a copy."""
    if not config.tune_epochs:
        return None, []
    tuned = copy.deepcopy(found)
    schedule = _search_schedule(config).model_copy(
        update={"epochs": config.tune_epochs, "lr": config.tune_lr, "weight_decay": 0.0}
    )
    result = train(
        tuned,
        _train_loader(data, config, seed),
        schedule,
        seed=seed,
        evaluate=_validation(data, config.batch_size, device),
        parameters=list(tuned.parameters()),
        checkpoint=None if checkpoint is None else checkpoint / "tune",
        device=device,
        label=f"weight tuning at {config.sparsity:.0%}",
        progress=progress,
    )
    return tuned, result.history


def _layer_rows(
    source: nn.Module, found: nn.Module, rates: Mapping[str, float], data: ImageData, device: str
) -> list[dict[str, Any]]:
    """Describe each masked layer: its size, its cost, and how near its mask is to magnitude's."""
    dense = {name: layer for name, layer in maskable_layers(source, []).items() if name in rates}
    magnitude = magnitude_masks(dense, rates)
    masks = {name: layer.mask for name, layer in masked_layers(found, list(rates)).items()}
    costs = model_cost(found, example_input(data.channels, data.image_size).to(device)).layers
    return [
        {
            "name": cost.name,
            "shape": list(cost.shape),
            "weights": cost.weights,
            "kept": cost.nonzeros,
            "density": cost.nonzeros / cost.weights,
            "macs": cost.macs,
            "effective_macs": cost.effective_macs,
            "overlap_magnitude": overlap(masks[cost.name], magnitude[cost.name]),
            "overlap_expected": expected_overlap({cost.name: masks[cost.name]}),
        }
        for cost in costs
        if cost.name in masks
    ]
