"""The networks of the DARTS space: proxies, and the evaluation networks of both image sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from supertickets.spaces.candidate import Candidate, require_within
from supertickets.spaces.operations import (
    SKIP,
    FactorizedReduce,
    MixedEdge,
    Operation,
    avg_pool,
    build_edge,
    dil_conv,
    max_pool,
    node_sum,
    normalised,
    relu_conv_bn,
    sep_conv,
    skip,
)

BUILDERS: dict[str, Operation] = {
    "max_pool_3x3": max_pool,
    "avg_pool_3x3": avg_pool,
    SKIP: skip,
    "sep_conv_3x3": sep_conv(3),
    "sep_conv_5x5": sep_conv(5),
    "dil_conv_3x3": dil_conv(3),
    "dil_conv_5x5": dil_conv(5),
}
SEARCH_BUILDERS = BUILDERS | {
    "max_pool_3x3": normalised(max_pool),
    "avg_pool_3x3": normalised(avg_pool),
}
_EDGES = 14
_NODES = 4  # a cell's output is the concatenation of its four nodes


class Cell(nn.Module):
    """Two inputs, four nodes.

    Args:
        live: Operations of the 14 edges.
        inputs: Channels of the two inputs.
        channels: Channels of a node.
        reduction: Whether the nodes' images have half the size of the inputs.
        after_reduction: Whether the first input is twice as large as the second.
        builders: How operations are built.
    """

    def __init__(
        self,
        live: tuple[tuple[str, ...], ...],
        inputs: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        after_reduction: bool,
        builders: dict[str, Operation],
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.preprocess0 = (
            FactorizedReduce(inputs[0], channels)
            if after_reduction
            else relu_conv_bn(inputs[0], channels, 1)
        )
        self.preprocess1 = relu_conv_bn(inputs[1], channels, 1)
        sources = [source for target in range(2, 6) for source in range(target)]
        self.edges = nn.ModuleList(
            build_edge(operations, builders, channels, self._stride(source))
            for source, operations in zip(sources, live, strict=True)
        )

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Give the nodes side by side, ``[N, 4 C, H, W]``."""
        nodes = [self.preprocess0(x0), self.preprocess1(x1)]
        first = 0
        for target in range(2, 6):
            edges = self.mixed_edges()[first : first + target]
            nodes.append(
                node_sum(
                    (edge, nodes[source], self._stride(source)) for source, edge in enumerate(edges)
                )
            )
            first += target
        return torch.cat(nodes[2:], dim=1)

    def mixed_edges(self) -> list[MixedEdge]:
        """Give the 14 edges."""
        return [edge for edge in self.edges if isinstance(edge, MixedEdge)]

    def _stride(self, source: int) -> int:
        return 2 if self.reduction and source < 2 else 1


class _DartsNet(nn.Module):
    """A row of cells whose operations can be switched.

    Args:
        candidate: The operations to build, all live at first.
        inputs: Channels of the two inputs of the first cell.
        widths: Channels of a node, cell by cell.
        reductions: Whether each cell is a reduction cell.
        after_reduction: Whether the first input of the first cell is twice as large as the second.
        builders: How operations are built.
    """

    def __init__(
        self,
        candidate: Candidate,
        *,
        inputs: tuple[int, int],
        widths: Sequence[int],
        reductions: Sequence[bool],
        after_reduction: bool,
        builders: dict[str, Operation],
    ) -> None:
        super().__init__()
        self.built = self.candidate = candidate
        cells = []
        for width, reduction in zip(widths, reductions, strict=True):
            cell = Cell(
                _edges_of(candidate, reduction),
                inputs,
                width,
                reduction=reduction,
                after_reduction=after_reduction,
                builders=builders,
            )
            cells.append(cell)
            inputs, after_reduction = (inputs[1], _NODES * width), reduction
        self.cells = nn.ModuleList(cells)
        self.outputs = inputs[1]

    def set_live(self, candidate: Candidate) -> None:
        """Switch operations on and off; those that are off never run, nothing is rebuilt.

        Args:
            candidate: Within the candidate that the network was built for.

        Raises:
            InputError: It has an operation that was not built.
        """
        require_within(candidate, self.built)
        for cell in self._cells():
            live = _edges_of(candidate, cell.reduction)
            for edge, operations in zip(cell.mixed_edges(), live, strict=True):
                edge.set_live(operations)
        self.candidate = candidate

    def _cells(self) -> list[Cell]:
        return [cell for cell in self.cells if isinstance(cell, Cell)]


class DartsProxyNet(_DartsNet):
    """One normal and one reduction cell, then BN-ReLU: the pruning search scores it.

    Args:
        candidate: The operations to build, all live at first.
        num_classes: Size of the output.
        channels: Input channels; ``None`` leaves the stem out, so inputs have ``width`` channels.
        width: Channels of a node of the normal cell; twice as many in the reduction cell.
    """

    def __init__(
        self,
        candidate: Candidate,
        *,
        num_classes: int,
        channels: int | None = 3,
        width: int = 1,
    ) -> None:
        super().__init__(
            candidate,
            inputs=(width, width),
            widths=(width, 2 * width),
            reductions=(False, True),
            after_reduction=False,
            builders=SEARCH_BUILDERS,
        )
        self.stem: nn.Module = nn.Identity()
        if channels is not None:
            self.stem = nn.Sequential(*_conv_bn(channels, width))
        self.lastact = nn.Sequential(nn.BatchNorm2d(self.outputs), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(self.outputs, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Give the last image before pooling, ``[N, C, H, W]``."""
        x0 = x1 = self.stem(x)
        for cell in self.cells:
            x0, x1 = x1, cell(x0, x1)
        return self.lastact(x1)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits ``[N, num_classes]``."""
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


class DartsEvaluationNet(_DartsNet):
    """The network that a genotype is trained in, of CIFAR or of ImageNet.

    Args:
        candidate: A path with two inputs a node.
        num_classes: Size of the output.
        channels: Input channels.
        imagenet: Take the stem that divides the image's sides by eight, for sides of 224; without
            it the stem is one convolution of ``3 * width`` channels, for sides of 32.
        width: Channels of a node of the first cell, doubled at a third and two thirds of the depth;
            36 on CIFAR and 48 on ImageNet.
        layers: Cells; 20 and 14.
        auxiliary: Build a second head at two thirds of the depth; a loss of the caller's own that
            calls :meth:`both_logits` trains it.
        drop_path: See :class:`MixedEdge`; constant unless :meth:`set_drop_path` changes it.
    """

    def __init__(
        self,
        candidate: Candidate,
        *,
        num_classes: int,
        channels: int,
        imagenet: bool = False,
        width: int | None = None,
        layers: int | None = None,
        auxiliary: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        width = width or (48 if imagenet else 36)
        layers = layers or (14 if imagenet else 20)
        reduced = (layers // 3, 2 * layers // 3)
        stem = width if imagenet else 3 * width
        super().__init__(
            candidate,
            inputs=(stem, stem),
            widths=[width * 2 ** sum(i >= r for r in reduced) for i in range(layers)],
            reductions=[i in reduced for i in range(layers)],
            after_reduction=imagenet,
            builders=BUILDERS,
        )
        self.stem0, self.stem1 = (_large_stem if imagenet else _small_stem)(channels, stem)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(self.outputs, num_classes)
        self._branch = reduced[1]
        self.auxiliary_head: nn.Module | None = None
        self.set_drop_path(drop_path)
        if auxiliary:
            inputs = _NODES * 4 * width
            self.auxiliary_head = _auxiliary_head(inputs, num_classes, imagenet=imagenet)

    def set_drop_path(self, probability: float) -> None:
        """Set the share of samples for which an operation gives zero in training mode."""
        for cell in self._cells():
            for edge in cell.mixed_edges():
                edge.drop_path = probability

    def forward(self, x: Tensor) -> Tensor:
        """Give logits ``[N, num_classes]``."""
        return self._run(x)[0]

    def both_logits(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give the logits, and those of the second head if there is one."""
        out, branch = self._run(x)
        return out, None if self.auxiliary_head is None else self.auxiliary_head(branch)

    def _run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x0 = self.stem0(x)
        x1 = self.stem1(x0)
        branch = x1
        for index, cell in enumerate(self.cells):
            x0, x1 = x1, cell(x0, x1)
            if index == self._branch:
                branch = x1
        return self.classifier(self.flatten(self.avgpool(x1))), branch


def _edges_of(candidate: Candidate, reduction: bool) -> tuple[tuple[str, ...], ...]:
    return candidate.live[_EDGES:] if reduction else candidate.live[:_EDGES]


def _conv_bn(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def _small_stem(channels: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(*_conv_bn(channels, outputs)), nn.Identity()


def _large_stem(channels: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    half = outputs // 2
    first = [*_conv_bn(channels, half, 2), nn.ReLU(), *_conv_bn(half, outputs, 2)]
    return nn.Sequential(*first), nn.Sequential(nn.ReLU(), *_conv_bn(outputs, outputs, 2))


def _auxiliary_head(inputs: int, num_classes: int, *, imagenet: bool) -> nn.Module:
    """Build the second head, for images of 8 x 8 (CIFAR) or 7 x 7 (ImageNet)."""
    layers = [
        nn.ReLU(),
        nn.AvgPool2d(5, stride=2 if imagenet else 3, count_include_pad=False),
        nn.Conv2d(inputs, 128, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 768, 2, bias=False),
        # the published ImageNet head has no batch norm here
        *([] if imagenet else [nn.BatchNorm2d(768)]),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, num_classes),
    ]
    return nn.Sequential(*layers)
