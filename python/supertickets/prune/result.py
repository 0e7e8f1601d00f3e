"""What a mask search found."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets.prune.config import JackpotConfig
from supertickets.ticket import Ticket


@dataclass(frozen=True)
class Jackpot:
    """A sparse sub-network of a frozen network, and how it was found.

    Attributes:
        model: The masked model of the best epoch by validation accuracy, its weights untouched.
        masks: Bool masks by layer name, on the CPU.
        rates: The removed fraction of each layer.
        config: The search's options.
        seed: The search's seed.
        history: One row per epoch: epoch, loss, lr, seconds, validation_accuracy,
            validation_loss, wanted, swaps, restriction (the ratio or the cap; 1 is unbounded),
            overlap_magnitude (with the magnitude mask of equal rates, at the epoch's end).
        steps: Per step: loss, wanted, swaps.
        best_epoch: The epoch, from 1, that ``model`` stands at.
        batches: Training batches seen.
        layers: One row per masked layer: name, shape, weights, kept, density, macs,
            effective_macs, overlap_magnitude, overlap_expected.
        source_sha256: Fingerprint of the source's weights, biases and batch-norm affine tensors.
        wall_s: Seconds of the search in this process.
        tuned: The same mask with its weights trained on, where ``tune_epochs`` asks for it.
        tune_history: One row per epoch of that.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    rates: dict[str, float]
    config: JackpotConfig
    seed: int
    history: list[dict[str, float]]
    steps: dict[str, list[float]]
    best_epoch: int | None
    batches: int
    layers: list[dict[str, Any]]
    source_sha256: str
    wall_s: float
    tuned: nn.Module | None = None
    tune_history: list[dict[str, float]] = field(default_factory=list)

    @property
    def overlap_magnitude(self) -> float:
        """Share of all kept weights that the magnitude mask of equal rates keeps too."""
        return self._mean("overlap_magnitude")

    @property
    def overlap_expected(self) -> float:
        """The same share for random masks of equal rates, on average."""
        return self._mean("overlap_expected")

    def to_ticket(
        self,
        architecture: Mapping[str, Any],
        *,
        class_names: Sequence[str] = (),
        metrics: Mapping[str, Any] | None = None,
        tuned: bool = False,
    ) -> Ticket:
        """Make the ticket that holds the masks, the weights and where they come from.

        Args:
            architecture: How to build the dense model: space, name, options, num_classes,
                channels, image_size.
            class_names: Names of the classes.
            metrics: Scores to store; the ticket adds density and MACs.
            tuned: Take the model whose weights were trained on.

        Returns:
            The ticket.

        Raises:
            InputError: ``tuned`` without ``tune_epochs``.
        """
        model = self.tuned if tuned else self.model
        if model is None:
            raise InputError("to_ticket: tuned=True, but the search had tune_epochs=0")
        provenance = {
            "stage": "jackpot",
            "source_sha256": self.source_sha256,
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "best_epoch": self.best_epoch,
            "retrained": tuned,
            "versions": {
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        return Ticket.from_model(
            model,
            dict(architecture),
            task="classification",
            class_names=tuple(class_names),
            metrics=dict(metrics or {}),
            provenance=provenance,
        )

    def _mean(self, key: str) -> float:
        kept = sum(row["kept"] for row in self.layers)
        return sum(row["kept"] * row[key] for row in self.layers) / kept
