"""Networks of a choice space: the supernet that shares weights, and one path on its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from supertickets.errors import InputError

Path = tuple[int, ...]


def check_path(path: Sequence[int], sizes: Sequence[int], what: str) -> Path:
    """Refuse what is no path.

    Args:
        path: One index a layer.
        sizes: Number of operations of each layer.
        what: Names the space or network in the message.

    Returns:
        The path as a tuple.

    Raises:
        InputError: Another number of layers, or an operation that a layer does not have.
    """
    if len(path) != len(sizes):
        raise InputError(f"path: {what} has {len(sizes)} layers, got {len(path)} choices")
    for layer, (index, size) in enumerate(zip(path, sizes, strict=True)):
        if not 0 <= index < size:
            raise InputError(
                f"path: layer {layer} of {what} has the operations 0 to {size - 1}, got {index}"
            )
    return tuple(int(index) for index in path)


class PathNet(nn.Module):
    """One path on its own: stem, a block a layer, head.

    Its state-dict keys are ``stem.*``, ``layers.<layer>.*`` and ``head.*``, whatever the path.

    Args:
        stem: From images to the input of the first layer.
        layers: The chosen blocks.
        head: From the last block's output to the result.
    """

    def __init__(self, stem: nn.Module, layers: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.layers = nn.Sequential(*layers)
        self.head = head

    def features(self, x: Tensor) -> Tensor:
        """Give the output of the last block."""
        return self.layers(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        """Give the head's output, logits ``[N, num_classes]`` in the spaces of this package."""
        return self.head(self.features(x))


class ChoiceSupernet(nn.Module):
    """All operations of all layers, of which one a layer runs: the path that was set.

    Operations off the path never run: their gradients stay ``None`` (with
    ``zero_grad(set_to_none=True)``, torch's default), so no optimizer touches them, and their batch
    norms see nothing. Nothing is rebuilt when the path changes.

    Any blocks will do, as long as all operations of a layer take and give the same shapes::

        def block(inputs, outputs, kernel):
            return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
                                 nn.BatchNorm2d(outputs), nn.ReLU())
        stem = block(1, 16, 3)
        layers = [[block(16, 16, 1), block(16, 16, 3), nn.Identity()],
                  [block(16, 32, 3), block(16, 32, 5)]]
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
        supernet = ChoiceSupernet(stem, layers, head)
        supernet.set_path((1, 0))
        logits = supernet(images)

    Under torchrun all processes must set the same path in a step; draw it from generators with
    equal seeds. ``DistributedDataParallel`` then needs ``find_unused_parameters=True``, which
    ``supertickets.training.train`` sets for a loss of one's own; ``static_graph`` does not hold, as
    the path changes from step to step.

    Args:
        stem: From images to the input of the first layer.
        layers: For each layer its operations; at least one each.
        head: From the last layer's output to logits.

    Raises:
        InputError: A layer has no operations.
    """

    def __init__(
        self, stem: nn.Module, layers: Sequence[Sequence[nn.Module]], head: nn.Module
    ) -> None:
        super().__init__()
        for index, operations in enumerate(layers):
            if not operations:
                raise InputError(f"supernet: layer {index} has no operations")
        self.stem = stem
        self.layers = nn.ModuleList(nn.ModuleList(operations) for operations in layers)
        self.head = head
        self._path: Path = (0,) * len(self.layers)

    @property
    def path(self) -> Path:
        """The path that runs; at first that of the first operations."""
        return self._path

    def set_path(self, path: Sequence[int]) -> None:
        """Choose which operation of every layer runs from now on.

        Args:
            path: One index a layer.

        Raises:
            InputError: Another number of layers, or an operation that a layer does not have.
        """
        self._path = self._checked(path)

    def features(self, x: Tensor) -> Tensor:
        """Give the output of the last layer."""
        x = self.stem(x)
        for block in self._chosen(self._path):
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Give the head's output along the path that was set."""
        return self.head(self.features(x))

    def view(self, path: Sequence[int]) -> PathNet:
        """Give a path as a network of its own that shares modules with the supernet.

        What happens to the view happens to the supernet: training, re-estimating batch norm
        (``recalibrate_bn(supernet.view(path), ...)`` leaves the other operations alone), modes.
        """
        return PathNet(self.stem, self._chosen(self._checked(path)), self.head)

    def path_parameters(self, path: Sequence[int] | None = None) -> list[nn.Parameter]:
        """List the parameters that a path trains: stem, its operations, head.

        Args:
            path: One index a layer; the path that is set if None.
        """
        blocks = self._chosen(self._path if path is None else self._checked(path))
        return [p for module in (self.stem, *blocks, self.head) for p in module.parameters()]

    def inherit(self, path: Sequence[int]) -> dict[str, Tensor]:
        """Copy a path's weights and statistics.

        Args:
            path: One index a layer.

        Returns:
            A state dict that fits ``space.network(path)``.
        """
        return {key: value.clone() for key, value in self.view(path).state_dict().items()}

    def _chosen(self, path: Path) -> list[nn.Module]:
        return [
            operations[index] for operations, index in zip(self._operations(), path, strict=True)
        ]

    def _operations(self) -> list[nn.ModuleList]:
        return [operations for operations in self.layers if isinstance(operations, nn.ModuleList)]

    def _checked(self, path: Sequence[int]) -> Path:
        return check_path(path, [len(layer) for layer in self._operations()], "supernet")
