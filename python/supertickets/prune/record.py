"""The training callback of a search: it moves the masks and writes down what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from supertickets.prune.config import JackpotConfig
from supertickets.prune.masks import total_overlap
from supertickets.prune.search import MaskedLayer, move_masks, restriction_rate
from supertickets.training import Callback, TrainState
from supertickets_ext import topk_mask

STEP_FIGURES = ("loss", "wanted", "swaps")


class MaskMover(Callback):
    """Moves the masks after every step; records loss, swaps wanted and done, and the overlap.

    Args:
        layers: Masked layers with scores, by name, as they stand in the trained model.
        keep: Kept weights by name.
        config: Reads the restriction.
    """

    def __init__(
        self, layers: Mapping[str, MaskedLayer], keep: Mapping[str, int], config: JackpotConfig
    ) -> None:
        self._layers = layers
        self._keep = keep
        self._config = config
        self._rate = 1.0
        self._losses: list[float] = []
        self._swaps: list[Tensor] = []
        self._steps = torch.empty(0, len(STEP_FIGURES), dtype=torch.float64)

    @property
    def steps(self) -> dict[str, list[float]]:
        """Per step: the loss before the step, and the swaps wanted and done after it."""
        columns = self._steps.T.tolist()
        return dict(zip(STEP_FIGURES, columns, strict=True))

    def epoch_begin(self, state: TrainState) -> None:
        """Set the epoch's restriction."""
        self._rate = restriction_rate(self._config, state.epoch)
        self._losses, self._swaps = [], []

    def step_end(self, state: TrainState) -> None:
        """Move the masks; the counts stay on the device until the epoch's end."""
        wanted, done = move_masks(self._layers, self._keep, self._config, self._rate)
        self._losses.append(state.loss)
        self._swaps.append(torch.stack([wanted, done]))

    def epoch_end(self, state: TrainState) -> Mapping[str, float]:
        """Give the epoch's sums for the history."""
        losses = torch.tensor(self._losses, dtype=torch.float64)
        rows = torch.cat([losses[:, None], torch.stack(self._swaps).cpu().double()], dim=1)
        self._steps = torch.cat([self._steps, rows])
        bound = float(self._config.cap) if self._config.restriction == "cap" else self._rate
        return {
            "wanted": float(rows[:, 1].sum()),
            "swaps": float(rows[:, 2].sum()),
            "restriction": bound,
            "overlap_magnitude": self._overlap_magnitude(),
        }

    def _overlap_magnitude(self) -> float:
        """Give the share of the kept weights that the magnitude mask keeps too."""
        masks = {name: layer.mask for name, layer in self._layers.items()}
        magnitude = {
            name: topk_mask(layer.weight.detach(), self._keep[name], by_magnitude=True)
            for name, layer in self._layers.items()
        }
        return total_overlap(masks, magnitude)

    def state_dict(self) -> dict[str, Any]:
        """Give the record so far."""
        return {"steps": self._steps.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a record over, unless it is a part of the one at hand.

        The best epoch's state comes back at the end of a search; the later steps stay recorded.
        """
        if len(state["steps"]) > len(self._steps):
            self._steps = state["steps"].clone()
