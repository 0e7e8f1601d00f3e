"""The measurements of the jackpot study; a cell is one experiment on one net with one seed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.jackpot_nets import (
    NARROW_RANDOM,
    NETS,
    PUBLISHED,
    Settings,
    digits_data,
    second_images,
    trained,
    untrained,
)
from supertickets.data import ImageData, Loader
from supertickets.evaluate import classification
from supertickets.prune import (
    Jackpot,
    JackpotConfig,
    comparison_rows,
    find_jackpot,
    find_random_start,
    keep_counts,
    magnitude_masks,
    mask_model,
    maskable_layers,
    total_overlap,
)
from supertickets.spaces import ModelConfig
from supertickets.training import recalibrate_bn
from supertickets_ext import topk_mask


def compare(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """B1, B2, B3: search at each sparsity from both starts, and score everything beside it."""
    data = digits_data(NETS[name], seed)
    return _compare(NETS[name].model, data, seed, settings, settings.search_epochs)


def compare_images(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """B1 on Fashion-MNIST or MNIST: 14 x 14 pixels, a part of the images, the narrow net."""
    data = second_images(seed)
    result = _compare(NETS[name].model, data, seed, settings, settings.image_epochs)
    return result | {"train_images": len(data.train), "test_images": len(data.test)}


def control(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """B4: the same search at 90 % in the trained net and in one that was never trained.

    With uniform rates: first weights have no magnitudes to share a sparsity out by.
    """
    data = digits_data(NETS[name], seed)
    config = _config(settings, 0.9, settings.search_epochs)
    config = config.model_copy(update={"rates": "uniform"})
    models = {
        "trained": trained(NETS[name].model, data, seed, settings),
        "untrained": untrained(NETS[name].model, data, seed),
    }
    return {
        kind: _accuracy(
            find_jackpot(model, data, config, seed=seed, progress=False).model, data, "test"
        )
        for kind, model in models.items()
    }


def restrict(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """B5: the same search without restriction, with the ratio, and with a cap."""
    data = digits_data(NETS[name], seed)
    model = trained(NETS[name].model, data, seed, settings)
    result: dict[str, Any] = {}
    for sparsity in (0.9, 0.95):
        found: dict[str, Jackpot] = {}
        for restriction in ("none", "ratio", "cap"):
            config = _config(settings, sparsity, settings.search_epochs)
            config = config.model_copy(update={"restriction": restriction, "cap": 8})
            found[restriction] = find_jackpot(model, data, config, seed=seed, progress=False)
        target = max(_curve(found["none"])) - 0.01
        result[str(sparsity)] = {
            kind: _restriction_figures(jackpot, data, target) for kind, jackpot in found.items()
        }
    return result


EXPERIMENTS: Mapping[str, Callable[[str, int, Settings], dict[str, Any]]] = {
    "compare": compare,
    "images": compare_images,
    "control": control,
    "restrict": restrict,
}


def _compare(
    net: ModelConfig, data: ImageData, seed: int, settings: Settings, epochs: int
) -> dict[str, Any]:
    model = trained(net, data, seed, settings)
    result: dict[str, Any] = {}
    for sparsity in settings.sparsities:
        config = _config(settings, sparsity, epochs)
        found = find_jackpot(model, data, config, seed=seed, progress=False)
        random_start = _best_random_start(model, data, config, seed)
        rows = comparison_rows(
            model, data, found, random_start=random_start, seed=seed, progress=False
        )
        accuracy = {row["name"]: round(row["test_accuracy"], 5) for row in rows}
        published = config.model_copy(update=PUBLISHED)
        as_published = find_jackpot(model, data, published, seed=seed, progress=False)
        accuracy["published-start"] = _accuracy(as_published.model, data, "test")
        magnitude = magnitude_masks(maskable_layers(model), found.rates)
        accuracy["magnitude-bn-equal"] = _with_equal_bn(model, magnitude, data, found)
        result[str(sparsity)] = {
            "test_accuracy": accuracy,
            "density": rows[1]["density"],
            "effective_macs": rows[1]["effective_macs"],
            "dense_macs": rows[0]["effective_macs"],
            "validation_curve": {
                "magnitude": _curve(found),
                "random": _curve(random_start),
                "published": _curve(as_published),
            },
            "overlap": {
                "magnitude": round(found.overlap_magnitude, 4),
                "snip": round(total_overlap(found.masks, _snip_masks(model, found, data)), 4),
                "expected": round(found.overlap_expected, 4),
            },
        }
    return result


def _best_random_start(
    model: nn.Module, data: ImageData, config: JackpotConfig, seed: int
) -> Jackpot:
    """Try two spreads and take the better on validation, so that the baseline is no weak one."""
    configs = (config, config.model_copy(update=NARROW_RANDOM))
    starts = [find_random_start(model, data, c, seed=seed, progress=False) for c in configs]
    return max(starts, key=lambda found: max(_curve(found)))


def _config(settings: Settings, sparsity: float, epochs: int) -> JackpotConfig:
    return JackpotConfig(sparsity=sparsity, epochs=epochs, batch_size=settings.batch_size)


def _accuracy(model: nn.Module, data: ImageData, split: Any) -> float:
    return round(classification(model, data.loader(split, batch_size=512)).accuracy, 5)


def _curve(found: Jackpot) -> list[float]:
    return [round(row["validation_accuracy"], 5) for row in found.history]


class _ManyEpochs:
    """Several epochs of a loader as one, so that baselines see as many batches as the search."""

    def __init__(self, loader: Loader, epochs: int) -> None:
        self._loader = loader
        self._epochs = epochs
        self.samples = loader.samples * epochs

    def __len__(self) -> int:
        return len(self._loader) * self._epochs

    def set_epoch(self, epoch: int) -> None:
        """Have no effect: all epochs are given."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(self._epochs):
            self._loader.set_epoch(epoch)
            yield from self._loader


def _with_equal_bn(
    model: nn.Module, masks: Mapping[str, Tensor], data: ImageData, found: Jackpot
) -> float:
    """Score magnitude pruning after re-estimating BN on exactly as many batches as the search."""
    masked = mask_model(model, masks)
    loader = data.loader("train", batch_size=found.config.batch_size, seed=found.seed)
    many = _ManyEpochs(loader, found.config.epochs)
    recalibrate_bn(masked, many, batches=len(many))
    return _accuracy(masked, data, "test")


def _snip_masks(model: nn.Module, found: Jackpot, data: ImageData) -> dict[str, Tensor]:
    """Rank by |weight x gradient| of the dense net on the training images, at the same rates."""
    layers = maskable_layers(model)
    weights = [layer.weight for layer in layers.values()]
    total = [torch.zeros_like(weight) for weight in weights]
    model.eval()
    for images, labels in data.loader("train", batch_size=512, augment=False, shuffle=False):
        loss = F.cross_entropy(model(images), labels, reduction="sum")
        for sum_, gradient in zip(total, torch.autograd.grad(loss, weights), strict=True):
            sum_ += gradient
    keep = keep_counts(layers, found.rates)
    return {
        name: topk_mask(weight.detach() * sum_, keep[name], by_magnitude=True)
        for name, weight, sum_ in zip(layers, weights, total, strict=True)
    }


def _restriction_figures(found: Jackpot, data: ImageData, target: float) -> dict[str, Any]:
    curve, losses = _curve(found), found.steps["loss"]
    reached = [epoch for epoch, value in enumerate(curve, 1) if value >= target]
    per_epoch = len(losses) // len(curve)
    late = [
        statistics.pstdev(losses[start : start + per_epoch])
        for start in range(len(losses) // 2, len(losses) - per_epoch + 1, per_epoch)
    ]
    return {
        "test_accuracy": _accuracy(found.model, data, "test"),
        "swaps_per_epoch": [int(row["swaps"]) for row in found.history],
        "loss_sd": round(statistics.mean(late), 6),
        "epochs_to_target": reached[0] if reached else None,
    }
