"""Keep the batch-inner layout, in which sparse kernels are fastest, through a whole network."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from supertickets_ext import _lane_functions as _lane_functions  # registers them
from supertickets_ext._lane_tensor import LANES, LaneTensor, from_lanes, left_lanes, to_lanes

__all__ = ["LANES", "KeptLanes", "LaneTensor", "from_lanes", "keep_lanes", "left_lanes", "to_lanes"]


class KeptLanes:
    """What ``keep_lanes`` switched on: ``remove`` it, or use it in a ``with`` statement."""

    def __init__(self, model: nn.Module, convs: Sequence[nn.Module]) -> None:
        self._before = [(conv, conv.lanes) for conv in convs]
        for conv in convs:
            conv.lanes = True  # type: ignore[assignment]  # a plain switch, not a submodule
        self._hook = model.register_forward_hook(_dense_output)

    def remove(self) -> None:
        """Let the convolutions work as before."""
        self._hook.remove()
        for conv, lanes in self._before:
            conv.lanes = lanes

    def __enter__(self) -> KeptLanes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def keep_lanes(model: nn.Module, example: Any = None) -> KeptLanes:
    """Let the masked convolutions of a model pass LaneTensors on, in training and inference.

    Each ``MaskedConv2d`` converts a dense input and returns a LaneTensor, which the functions
    between the convolutions keep (see ``LaneTensor``). What the model returns is dense.

    Args:
        model: Any eager model; changed until ``remove``.
        example: An input, or a tuple of them. If given, the model runs on it in evaluation mode
            with and without lanes, and the results are compared.

    Returns:
        The switch, already on.

    Raises:
        ValueError: The model has no ``MaskedConv2d``, or its results on the example differ.
    """
    from supertickets_ext.nn import MaskedConv2d  # it imports this module

    convs = [module for module in model.modules() if isinstance(module, MaskedConv2d)]
    if not convs:
        raise ValueError("keep_lanes: model has no MaskedConv2d to keep lanes for")
    expected = None if example is None else _evaluate(model, example)
    kept = KeptLanes(model, convs)
    try:
        if example is not None:
            _check_same(expected, _evaluate(model, example))
    except BaseException:
        kept.remove()
        raise
    return kept


def _dense_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    return tree_map(lambda y: y.dense() if isinstance(y, LaneTensor) else y, output)


@torch.no_grad()
def _evaluate(model: nn.Module, example: Any) -> Any:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        return model(*example) if isinstance(example, tuple) else model(example)
    finally:
        for module in training:
            module.training = True


def _check_same(expected: Any, given: Any) -> None:
    for dense, lanes in zip(tree_leaves(expected), tree_leaves(given), strict=True):
        if not isinstance(dense, Tensor) or not dense.is_floating_point():
            continue
        # the order of sums differs, and a network amplifies that; a wrong layout is off by about 1
        off = float((lanes - dense).norm() / dense.norm().clamp_min(torch.finfo(dense.dtype).tiny))
        if off > 1e-2 + 4 * torch.finfo(dense.dtype).eps:
            raise ValueError(
                f"keep_lanes: the model's results differ in lanes by {off:.2g} of their norm; does "
                "it change a view of an activation in place, or draw random numbers?"
            )
