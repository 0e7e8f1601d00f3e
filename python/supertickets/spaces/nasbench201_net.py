"""The networks of NAS-Bench-201: stem, three stages of cells, residual blocks between them."""

from __future__ import annotations

from torch import Tensor, nn

from supertickets.spaces.candidate import Candidate, require_within
from supertickets.spaces.operations import (
    SKIP,
    MixedEdge,
    Operation,
    avg_pool,
    build_edge,
    conv_op,
    node_sum,
    relu_conv_bn,
    skip,
)

BUILDERS: dict[str, Operation] = {
    SKIP: skip,
    "nor_conv_1x1": conv_op(1),
    "nor_conv_3x3": conv_op(3),
    "avg_pool_3x3": avg_pool,
}


class Cell(nn.Module):
    """Four nodes; each adds what the edges from all nodes before it bring."""

    def __init__(self, live: tuple[tuple[str, ...], ...], channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            build_edge(operations, BUILDERS, channels, 1) for operations in live
        )

    def forward(self, x: Tensor) -> Tensor:
        """Give the last node, of the input's shape."""
        nodes, first = [x], 0
        for target in (1, 2, 3):
            edges = self._edges(first, target)
            nodes.append(node_sum([(e, n, 1) for e, n in zip(edges, nodes, strict=True)]))
            first += target
        return nodes[-1]

    def _edges(self, first: int, count: int) -> list[MixedEdge]:
        return [edge for edge in self.edges[first : first + count] if isinstance(edge, MixedEdge)]


class Reduction(nn.Module):
    """Residual block that halves the image: two 3x3 convolutions beside pool and 1x1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_a = relu_conv_bn(inputs, outputs, 3, 2)
        self.conv_b = relu_conv_bn(outputs, outputs, 3)
        self.downsample = nn.Sequential(
            nn.AvgPool2d(2, stride=2), nn.Conv2d(inputs, outputs, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Give ``[N, outputs, H / 2, W / 2]``."""
        return self.downsample(x) + self.conv_b(self.conv_a(x))


class NasBench201Net(nn.Module):
    """A network of cells: the evaluation network by default.

    Args:
        candidate: The operations to build, all live at first.
        num_classes: Size of the output.
        channels: Input channels; ``None`` leaves the stem out, so inputs have ``width`` channels.
        width: Channels of the first stage, doubled from stage to stage.
        cells: Cells a stage.
        stages: Stages, with a residual block between two.
    """

    def __init__(
        self,
        candidate: Candidate,
        *,
        num_classes: int,
        channels: int | None = 3,
        width: int = 16,
        cells: int = 5,
        stages: int = 3,
    ) -> None:
        super().__init__()
        self.built = self.candidate = candidate
        self.stem: nn.Module = nn.Identity()
        if channels is not None:
            self.stem = nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
            )
        layers: list[nn.Module] = []
        for stage in range(stages):
            if stage:
                layers.append(Reduction(width, 2 * width))
                width *= 2
            layers += [Cell(candidate.live, width) for _ in range(cells)]
        self.cells = nn.Sequential(*layers)
        self.lastact = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(width, num_classes)

    def set_live(self, candidate: Candidate) -> None:
        """Switch operations on and off; those that are off never run, nothing is rebuilt.

        Args:
            candidate: Within the candidate that the network was built for.

        Raises:
            InputError: It has an operation that was not built.
        """
        require_within(candidate, self.built)
        for cell in self.cells:
            if isinstance(cell, Cell):
                for edge, operations in zip(cell.edges, candidate.live, strict=True):
                    if isinstance(edge, MixedEdge):
                        edge.set_live(operations)
        self.candidate = candidate

    def features(self, x: Tensor) -> Tensor:
        """Give the last image before pooling, ``[N, C, H, W]``."""
        return self.lastact(self.cells(self.stem(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Give logits ``[N, num_classes]``."""
        return self.classifier(self.flatten(self.avgpool(self.features(x))))
