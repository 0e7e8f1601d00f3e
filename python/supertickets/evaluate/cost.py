"""Exact multiply-accumulates and sizes, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from supertickets.evaluate.modes import eval_mode
from supertickets.masks import mask_of


@dataclass(frozen=True)
class LayerCost:
    """Cost of one Conv2d or Linear, dense or masked.

    Attributes:
        name: Path in the model.
        kind: ``"conv2d"`` or ``"linear"``.
        shape: Shape of the weight.
        weights: Number of weights.
        nonzeros: Kept weights: ones of the mask, or, without a mask, weights that are not zero.
        macs: Multiply-accumulates if every weight is used; bias and padding as usual (a bias is
            none, a padded zero is one). Zero if the layer was not called.
        effective_macs: The same with the kept weights only.
    """

    name: str
    kind: Literal["conv2d", "linear"]
    shape: tuple[int, ...]
    weights: int
    nonzeros: int
    macs: int
    effective_macs: int


@dataclass(frozen=True)
class ModelCost:
    """Cost of a model for one example.

    Attributes:
        layers: In the order of the model's definition.
        parameters: All parameters, batch norm and biases too; mask scores are none.
        dense_bytes: Bytes of the plain state dict, buffers too, masks and scores not.
    """

    layers: tuple[LayerCost, ...]
    parameters: int
    dense_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers; FLOPs are twice that."""
        return sum(layer.macs for layer in self.layers)

    @property
    def effective_macs(self) -> int:
        """Multiply-accumulates with kept weights: the exact count, layer by layer."""
        return sum(layer.effective_macs for layer in self.layers)

    @property
    def uniform_macs(self) -> int:
        """MACs x density: the papers' figure, as if every layer had the same density."""
        return round(self.macs * self.density)

    @property
    def density(self) -> float:
        """Share of kept weights among the weights of Conv2d and Linear; 1 if there are none."""
        weights = sum(layer.weights for layer in self.layers)
        return sum(layer.nonzeros for layer in self.layers) / weights if weights else 1.0

    @property
    def nonzeros(self) -> int:
        """Parameters less the pruned weights."""
        return self.parameters - sum(layer.weights - layer.nonzeros for layer in self.layers)


def model_cost(model: nn.Module, example: Tensor) -> ModelCost:
    """Count by running ``example`` through the model once and looking at every layer called.

    Conv2d and Linear modules are seen, masked or not; one that is called twice counts twice, and
    weights that two modules share count in each. Not seen: functional calls such as ``F.conv2d``
    or attention, and other kinds of layers (transposed, 1-d and 3-d convolutions).

    Args:
        model: Run in evaluation mode without gradients; its modes are restored.
        example: The input; the counts are for it as given, so use a batch of one.

    Returns:
        The counts, exact integers.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    uses = _uses_per_weight(model, list(layers.values()), example)
    costs = tuple(_layer_cost(name, module, uses[module]) for name, module in layers.items())
    left_out = {
        id(tensor)
        for module in layers.values()
        if (mask := mask_of(module)) is not None
        for tensor in (mask, getattr(module, "scores", None))
    }
    parameters = [p for p in model.parameters() if id(p) not in left_out]
    buffers = [b for b in model.buffers() if id(b) not in left_out]
    return ModelCost(
        layers=costs,
        parameters=sum(p.numel() for p in parameters),
        dense_bytes=sum(t.numel() * t.element_size() for t in [*parameters, *buffers]),
    )


def _uses_per_weight(
    model: nn.Module, layers: list[nn.Conv2d | nn.Linear], example: Tensor
) -> dict[nn.Module, int]:
    """Count how often one weight of each layer multiplies: output positions x batch, all calls."""
    uses: dict[nn.Module, int] = dict.fromkeys(layers, 0)

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs = module.get_parameter("weight").shape[0]
        uses[module] += output.numel() // max(outputs, 1)

    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with eval_mode(model), torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return uses


def _layer_cost(name: str, module: nn.Conv2d | nn.Linear, uses: int) -> LayerCost:
    mask = mask_of(module)
    kept = module.weight if mask is None else mask
    weights, nonzeros = module.weight.numel(), int(torch.count_nonzero(kept))
    return LayerCost(
        name=name,
        kind="conv2d" if isinstance(module, nn.Conv2d) else "linear",
        shape=tuple(module.weight.shape),
        weights=weights,
        nonzeros=nonzeros,
        macs=uses * weights,
        effective_macs=uses * nonzeros,
    )
