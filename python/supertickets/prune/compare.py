"""The rows that stand beside every jackpot."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from supertickets.data import ImageData
from supertickets.evaluate import classification, model_cost
from supertickets.prune.config import JackpotConfig
from supertickets.prune.find import find_jackpot
from supertickets.prune.layers import mask_model, maskable_layers
from supertickets.prune.masks import magnitude_masks, random_masks
from supertickets.prune.result import Jackpot
from supertickets.spaces import example_input
from supertickets.training import recalibrate_bn


def comparison_rows(
    model: nn.Module,
    data: ImageData,
    found: Jackpot,
    config: JackpotConfig | None = None,
    *,
    random_start: Jackpot | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Score a jackpot beside its source and the masks that need no search from magnitude.

    All sparse rows have the jackpot's rates. ``magnitude-bn`` and ``random`` have their batch-norm
    statistics re-estimated: the plain average over one pass of the training split, or over as many
    batches as the search saw if those are fewer. ``magnitude`` keeps the dense network's. Nothing
    is chosen here, so the test split is read once per row.

    Args:
        model: The trained source of the search.
        data: The data of the search.
        found: The jackpot.
        config: The jackpot's options; ``None`` takes them from ``found``.
        random_start: The search from random scores, if it was made before; ``None`` makes it now.
        seed: Decides the random mask and the random-start search.
        device: Where to evaluate.
        checkpoint: A folder to resume the random-start search from.
        progress: Show progress bars.

    Returns:
        One mapping each for ``dense``, ``jackpot``, ``jackpot-tuned`` (only with weight tuning),
        ``random-start``, ``magnitude-bn``, ``magnitude`` and ``random``: name,
        validation_accuracy, test_accuracy, test_count, density, effective_macs, retrained, epochs
        (searched or tuned) and bn_batches (re-estimation).
    """
    config = config or found.config
    if random_start is None:
        random_start = find_random_start(
            model, data, config, seed=seed, device=device, checkpoint=checkpoint, progress=progress
        )
    model = copy.deepcopy(model).to(device)
    layers = maskable_layers(model, config.keep_dense)
    magnitude = magnitude_masks(layers, found.rates)
    chance = random_masks(layers, found.rates, seed=seed)
    judge = _Judge(data, config.batch_size, device)
    rows = [judge("dense", model), judge("jackpot", found.model, epochs=config.epochs)]
    if found.tuned is not None:
        epochs = config.epochs + config.tune_epochs
        rows.append(judge("jackpot-tuned", found.tuned, epochs=epochs, retrained=True))
    rows.append(judge("random-start", random_start.model, epochs=config.epochs))
    estimated = judge.masked("magnitude-bn", model, magnitude, found)
    plain = judge("magnitude", mask_model(model, magnitude))
    return [*rows, estimated, plain, judge.masked("random", model, chance, found)]


def find_random_start(
    model: nn.Module,
    data: ImageData,
    config: JackpotConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Jackpot:
    """Make the same search from random scores, without weight tuning.

    Args:
        model: The trained source.
        data: The data.
        config: The options of the search to compare with.
        seed: Decides the first mask and the batches.
        device: Where the search runs.
        checkpoint: A folder; ``random-start`` below it is used.
        progress: Show a progress bar.

    Returns:
        The jackpot from a random start.
    """
    return find_jackpot(
        model,
        data,
        config.model_copy(update={"start": "random", "tune_epochs": 0}),
        seed=seed,
        device=device,
        checkpoint=None if checkpoint is None else checkpoint / "random-start",
        progress=progress,
    )


class _Judge:
    """Turns a model into a row."""

    def __init__(self, data: ImageData, batch_size: int, device: str) -> None:
        self._data = data
        self._batch_size = batch_size
        self._device = device
        self._example = example_input(data.channels, data.image_size).to(device)
        self._splits = {s: data.loader(s, batch_size=batch_size) for s in ("validation", "test")}

    def __call__(
        self,
        name: str,
        model: nn.Module,
        *,
        epochs: int = 0,
        retrained: bool = False,
        bn_batches: int = 0,
    ) -> dict[str, Any]:
        scored = {
            split: classification(model, loader, device=self._device)
            for split, loader in self._splits.items()
        }
        cost = model_cost(model, self._example)
        return {
            "name": name,
            "validation_accuracy": scored["validation"].accuracy,
            "test_accuracy": scored["test"].accuracy,
            "test_count": scored["test"].count,
            "density": cost.density,
            "effective_macs": cost.effective_macs,
            "retrained": retrained,
            "epochs": epochs,
            "bn_batches": bn_batches,
        }

    def masked(
        self, name: str, model: nn.Module, masks: Mapping[str, Tensor], found: Jackpot
    ) -> dict[str, Any]:
        """Make the row of a mask whose batch-norm statistics are re-estimated."""
        masked = mask_model(model, masks)
        loader = self._data.loader("train", batch_size=self._batch_size, seed=found.seed)
        batches = min(found.batches, len(loader))
        recalibrate_bn(masked, loader, batches=batches, device=self._device)
        return self(name, masked, bn_batches=batches)
