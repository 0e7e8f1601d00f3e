"""Choice spaces: networks of layers, each of which is one of several operations."""

from __future__ import annotations

import itertools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from supertickets.errors import InputError, did_you_mean
from supertickets.spaces.choice_net import ChoiceSupernet, Path, PathNet, check_path
from supertickets.spaces.choice_sampling import (
    BudgetSampler,
    PathCosts,
    Prior,
    check_prior,
    draw_path,
)
from supertickets.spaces.initialise import initialise_for_training_

_STAGE = re.compile(r"(.+)\.\d+")


@dataclass(frozen=True)
class ChoiceLayer:
    """A place in a network where one operation is to be chosen.

    Attributes:
        name: Such as ``"stage2.0"``; layers whose names share what is before the dot are written
            together.
        operations: Names of the operations that may stand there, in the order of their indices.
    """

    name: str
    operations: tuple[str, ...]


class ChoiceSpace(ABC):
    """A space of networks for images of one size and one number of classes.

    A subclass says how to build stem, operations and head; all else is common.

    Attributes:
        name: As messages and tickets call it.
        layers: Where there is a choice.
    """

    name: str
    layers: tuple[ChoiceLayer, ...]

    @property
    @abstractmethod
    def macs_table(self) -> PathCosts:
        """Exact multiply-accumulates of an image."""

    @property
    @abstractmethod
    def parameters_table(self) -> PathCosts:
        """Number of parameters."""

    @abstractmethod
    def build_stem(self) -> nn.Module:
        """Build what comes before the first layer."""

    @abstractmethod
    def build_operation(self, layer: int, operation: int) -> nn.Module:
        """Build an operation of a layer, by its index; shapes are those of the layer."""

    @abstractmethod
    def build_head(self) -> nn.Module:
        """Build what comes after the last layer, and gives logits."""

    def supernet(self, generator: torch.Generator) -> ChoiceSupernet:
        """Build the network of all operations, in training mode on the CPU.

        Args:
            generator: Draws every weight (:func:`initialise_for_training_`).
        """
        with torch.random.fork_rng(devices=()):
            layers = [
                [self.build_operation(layer, operation) for operation in range(size)]
                for layer, size in enumerate(self._sizes())
            ]
            net = ChoiceSupernet(self.build_stem(), layers, self.build_head())
        initialise_for_training_(net, generator)
        return net

    def network(self, path: Sequence[int], generator: torch.Generator | None = None) -> PathNet:
        """Build a path on its own, in training mode on the CPU.

        Args:
            path: One index a layer.
            generator: Draws every weight; without one, weights are to be loaded, such as those
                that :meth:`ChoiceSupernet.inherit` gives.

        Raises:
            InputError: The path is not of this space.
        """
        checked = self.check(path)
        with torch.random.fork_rng(devices=()):
            blocks = [self.build_operation(i, operation) for i, operation in enumerate(checked)]
            net = self.assemble(self.build_stem(), blocks, self.build_head())
        if generator is not None:
            initialise_for_training_(net, generator)
        return net

    def assemble(self, stem: nn.Module, blocks: Sequence[nn.Module], head: nn.Module) -> PathNet:
        """Put the parts of a path together."""
        return PathNet(stem, blocks, head)

    def macs(self, path: Sequence[int]) -> int:
        """Count the multiply-accumulates of an image, exactly."""
        return self.macs_table.of(self.check(path))

    def parameters(self, path: Sequence[int]) -> int:
        """Count the parameters of a path's network."""
        return self.parameters_table.of(self.check(path))

    def reachable(self) -> tuple[int, int]:
        """Give the fewest and the most MACs of a path."""
        return self.macs_table.smallest, self.macs_table.largest

    @property
    def count(self) -> int:
        """Number of paths."""
        return math.prod(len(layer.operations) for layer in self.layers)

    def paths(self) -> Iterator[Path]:
        """Give every path, the last layer changing fastest."""
        return itertools.product(*(range(len(layer.operations)) for layer in self.layers))

    def check(self, path: Sequence[int]) -> Path:
        """Refuse what is no path of this space.

        Returns:
            The path as a tuple.

        Raises:
            InputError: Another number of layers, or an operation that a layer does not have.
        """
        return check_path(path, self._sizes(), self.name)

    def format(self, path: Sequence[int]) -> str:
        """Write a path: operations by name, ``,`` between layers, ``|`` between stages."""
        checked = self.check(path)
        names = (layer.operations[i] for layer, i in zip(self.layers, checked, strict=True))
        return "|".join(
            ",".join(name for _, name in stage)
            for _, stage in itertools.groupby(
                zip(self.layers, names, strict=True), key=lambda pair: _stage_of(pair[0].name)
            )
        )

    def parse(self, text: str) -> Path:
        """Read what :meth:`format` wrote, or the same with indices in the place of names.

        Raises:
            InputError: Other stages or layers, or an unknown operation; the nearest is named.
        """
        stages = [stage.split(",") for stage in text.strip().split("|")]
        grouped = itertools.groupby(self.layers, key=lambda layer: _stage_of(layer.name))
        depths = [len(list(layers)) for _, layers in grouped]
        if [len(stage) for stage in stages] != depths:
            raise InputError(
                f"path: {self.name} has stages of {'|'.join(map(str, depths))} layers, "
                f"got {text.strip()!r}"
            )
        words = [word.strip() for stage in stages for word in stage]
        return self.check([_index(*pair) for pair in zip(self.layers, words, strict=True)])

    def prior(self, weights: Mapping[str, float]) -> Prior:
        """Spell a prior that is the same in every layer.

        Args:
            weights: Operation name -> weight; an operation that is left out is never drawn.

        Returns:
            Weights for each layer, in the order of its operations.

        Raises:
            InputError: An unknown operation, or weights that are no prior.
        """
        known = {name for layer in self.layers for name in layer.operations}
        for name in weights:
            if name not in known:
                raise InputError(f"prior: no operation {name!r}{did_you_mean(name, known)}")
        prior = tuple(
            tuple(float(weights.get(name, 0.0)) for name in layer.operations)
            for layer in self.layers
        )
        return check_prior(prior, self._sizes())

    def sample(self, generator: torch.Generator, prior: Prior | None = None) -> Path:
        """Draw a path, each layer on its own.

        Args:
            generator: On the CPU.
            prior: For each layer the weights of its operations; uniform if None.

        Raises:
            InputError: The prior does not fit.
        """
        return draw_path(check_prior(prior, self._sizes()), generator)

    def within(
        self, min_macs: int | None, max_macs: int | None, prior: Prior | None = None
    ) -> BudgetSampler:
        """Make the sampler of paths within a budget, to be called many times.

        Args:
            min_macs: Fewest MACs of a path; none if None.
            max_macs: Most MACs; none if None.
            prior: As in :meth:`sample`.

        Raises:
            InputError: No path is within; the message states what can be reached.
        """
        return BudgetSampler(self.macs_table, min_macs, max_macs, check_prior(prior, self._sizes()))

    def sample_within(
        self,
        generator: torch.Generator,
        min_macs: int | None,
        max_macs: int | None,
        prior: Prior | None = None,
    ) -> Path:
        """Draw a path from the prior, given that its MACs are within a budget.

        Args:
            generator: On the CPU.
            min_macs: Fewest MACs of a path; none if None.
            max_macs: Most MACs; none if None.
            prior: As in :meth:`sample`.

        Raises:
            InputError: No path is within; the message states what can be reached.
        """
        return self.within(min_macs, max_macs, prior)(generator)

    def _sizes(self) -> tuple[int, ...]:
        return tuple(len(layer.operations) for layer in self.layers)


def _stage_of(name: str) -> str:
    """Give what layers that are written together share: what is before the dot and the number."""
    found = _STAGE.fullmatch(name)
    return found.group(1) if found else ""


def _index(layer: ChoiceLayer, word: str) -> int:
    if word.isdecimal():
        return int(word)
    if word not in layer.operations:
        raise InputError(
            f"path: layer {layer.name} has no operation {word!r}"
            f"{did_you_mean(word, layer.operations)}"
        )
    return layer.operations.index(word)
