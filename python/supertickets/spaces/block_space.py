"""A choice space of anybody's blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets.evaluate import eval_mode, model_cost
from supertickets.spaces.choice import ChoiceLayer, ChoiceSpace
from supertickets.spaces.choice_sampling import PathCosts

Build = Callable[[], nn.Module]


class BlockSpace(ChoiceSpace):
    """A space given by functions that build its blocks.

    A whole one::

        def block(inputs, outputs, kernel):
            return lambda: nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(outputs), nn.ReLU())
        def head():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
        space = BlockSpace("mine", stem=block(1, 16, 3), head=head, image_shape=(1, 8, 8), layers={
            "first": {"k1": block(16, 16, 1), "k3": block(16, 16, 3), "skip": nn.Identity},
            "second": {"k3": block(16, 32, 3), "k5": block(16, 32, 5)}})

    MACs are counted by running every block once (``model_cost``: Conv2d and Linear modules).

    Args:
        name: As messages call it.
        stem: Builds what comes before the first layer.
        layers: Layer name -> operation name -> what builds it. All operations of a layer take and
            give the same shapes.
        head: Builds what gives logits.
        image_shape: Channels, height and width of an image.

    Raises:
        InputError: There are no layers, a layer has no operations, or two operations of a layer
            give different shapes.
    """

    def __init__(
        self,
        name: str,
        *,
        stem: Build,
        layers: Mapping[str, Mapping[str, Build]],
        head: Build,
        image_shape: tuple[int, int, int],
    ) -> None:
        if not layers or not all(layers.values()):
            raise InputError(f"{name}: expected layers with operations, got {dict(layers)}")
        self.name = name
        self.layers = tuple(ChoiceLayer(key, tuple(builds)) for key, builds in layers.items())
        self.image_shape = image_shape
        self._stem, self._head = stem, head
        self._builds = [list(builds.values()) for builds in layers.values()]
        self._costs  # noqa: B018 - shapes that do not fit are refused now

    @property
    def macs_table(self) -> PathCosts:
        """Exact multiply-accumulates of an image."""
        return self._costs[0]

    @property
    def parameters_table(self) -> PathCosts:
        """Number of parameters."""
        return self._costs[1]

    def build_stem(self) -> nn.Module:
        """Build what comes before the first layer."""
        return self._stem()

    def build_operation(self, layer: int, operation: int) -> nn.Module:
        """Build an operation of a layer, by its index."""
        return self._builds[layer][operation]()

    def build_head(self) -> nn.Module:
        """Build what comes after the last layer."""
        return self._head()

    @cached_property
    def _costs(self) -> tuple[PathCosts, PathCosts]:
        """Give MACs and parameters, having run every block."""
        with torch.random.fork_rng(devices=()):
            x, *fixed = _run(self.build_stem(), torch.zeros(1, *self.image_shape))
            macs, parameters = [], []
            for layer, builds in zip(self.layers, self._builds, strict=True):
                rows, x = self._run_layer(layer, [build() for build in builds], x)
                macs.append(tuple(row[0] for row in rows))
                parameters.append(tuple(row[1] for row in rows))
            _, *head = _run(self.build_head(), x)
        totals = [a + b for a, b in zip(fixed, head, strict=True)]
        return PathCosts(totals[0], tuple(macs)), PathCosts(totals[1], tuple(parameters))

    def _run_layer(
        self, layer: ChoiceLayer, blocks: list[nn.Module], x: Tensor
    ) -> tuple[list[tuple[int, int]], Tensor]:
        ran = [_run(block, x) for block in blocks]
        outputs, rows = [row[0] for row in ran], [row[1:] for row in ran]
        for name, output in zip(layer.operations, outputs, strict=True):
            if output.shape != outputs[0].shape:
                raise InputError(
                    f"{self.name}: the operations of layer {layer.name} must give one shape, but "
                    f"{layer.operations[0]} gives {list(outputs[0].shape)} and {name} "
                    f"{list(output.shape)}"
                )
        return rows, outputs[0]


def _run(module: nn.Module, x: Tensor) -> tuple[Tensor, int, int]:
    cost = model_cost(module, x)
    with eval_mode(module), torch.no_grad():
        return module(x), cost.macs, cost.parameters
