"""An exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """Moving average of the trained parameters and of every floating-point buffer.

    Update ``n`` uses ``min(decay, (1 + n) / (10 + n))``, so that a short training is not dominated
    by its initial weights. What is not averaged (frozen parameters, masks, counters) is the
    model's own.

    Args:
        model: The model, at its starting point.
        trained: Names of the parameters that are optimised.
        decay: Limit of the decay, in ``(0, 1)``.

    Source: the ``num_updates`` rule of ``tf.train.ExponentialMovingAverage``.
    """

    def __init__(self, model: nn.Module, trained: Iterable[str], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._trained = set(trained)
        self.tensors = {name: value.clone() for name, value in self._sources(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present values."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in self._sources(model):
            self.tensors[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def copy_to_(self, model: nn.Module) -> None:
        """Write the average into the model."""
        for name, value in self._sources(model):
            value.copy_(self.tensors[name])

    def forget(self, name: str) -> None:
        """Drop the average of a parameter or buffer that has left the model."""
        self._trained.discard(name)
        self.tensors.pop(name, None)

    def rename(self, old: str, new: str) -> None:
        """Follow a parameter that has got another name in the model."""
        if old in self._trained:
            self._trained.remove(old)
            self._trained.add(new)
            self.tensors[new] = self.tensors.pop(old)

    def state_dict(self) -> dict[str, Any]:
        """Give what :meth:`load_state_dict` needs."""
        return {"updates": self.updates, "tensors": dict(self.tensors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
        self.updates = state["updates"]
        for name, value in state["tensors"].items():
            self.tensors[name].copy_(value)

    def _sources(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in model.named_parameters():
            if name in self._trained:
                yield name, parameter.detach()
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                yield name, buffer
