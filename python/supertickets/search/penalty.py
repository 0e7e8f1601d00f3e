"""What an atom costs, and the penalty that makes expensive atoms die first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from supertickets.evaluate import model_cost
from supertickets.search.atoms import Atoms, find_atoms
from supertickets.training.step import Loss


def atom_costs(model: nn.Module, atoms: Sequence[Atoms], example: Tensor) -> list[int]:
    """Give the MACs of one atom of each operation, for one image.

    Args:
        model: With the operations, masked or not; masks do not count.
        atoms: Of ``model``.
        example: ``[1, C, H, W]``.

    Returns:
        Exactly what the dense MACs fall by when one atom is removed.
    """
    macs = {layer.name: layer.macs for layer in model_cost(model, example).layers}
    return [sum(macs[name] for name in one.convolutions) // one.count for one in atoms]


def penalty_weights(costs: Sequence[int], counts: Sequence[int]) -> list[float]:
    """Scale costs so that their mean over all atoms is 1.

    Args:
        costs: MACs of an atom of each operation.
        counts: Atoms of each operation.

    Source: AtomNAS, Mei et al. 2020, equation 5.
    """
    atoms = sum(counts)
    mean = sum(cost * count for cost, count in zip(costs, counts, strict=True)) / atoms
    return [cost / mean for cost in costs]


class GammaPenalty:
    """The sum over all atoms of weight times absolute gamma, times :attr:`rho`.

    Args:
        model: The model.
        example: ``[1, C, H, W]``, on the model's device.

    Attributes:
        rho: Strength; 0 until it is set.
        atoms: The model's operations as :meth:`refresh` found them.
        costs: MACs of an atom of each.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.rho = 0.0
        self._example = example
        self.refresh(model)

    def refresh(self, model: nn.Module) -> None:
        """Profile again, after atoms have been removed."""
        self.atoms = find_atoms(model)
        self.costs = atom_costs(model, self.atoms, self._example)
        counts = [one.count for one in self.atoms]
        weights = penalty_weights(self.costs, counts) if counts else []
        scale = torch.tensor(weights, dtype=torch.float32, device=self._example.device)
        self._scale = scale.repeat_interleave(
            torch.tensor(counts, dtype=torch.int64, device=self._example.device),
            output_size=sum(counts),
        )

    def __call__(self) -> Tensor:
        """Give the penalty; its gradient for a gamma is ``rho * weight * sign(gamma)``."""
        every = torch.cat([one.gamma.weight for one in self.atoms]).abs()
        return self.rho * (every.float() @ self._scale)

    def added_to(self, loss: Loss) -> Loss:
        """Give ``loss`` with the penalty added while :attr:`rho` is not 0."""

        def penalised(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            own = loss(model, images, targets)
            return own + self() if self.rho and self.atoms else own

        return penalised
