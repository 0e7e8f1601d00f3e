"""The options of searching and pruning in one training run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

Arm = Literal["main", "reuse", "reset", "one-shot"]


class TwoInOneConfig(BaseModel, extra="forbid"):
    """When atoms are removed, when weights are pruned, and how hard both are pressed for.

    Defaults are those of the published ImageNet configuration.
    """

    sparsity: float = Field(default=0.9, ge=0, lt=1, allow_inf_nan=False)
    """Fraction of the prunable weights that the ticket lacks."""
    arm: Arm = "main"
    """How masks live between events. ``main``: progressive, and a search that removes atoms sets
    the masks of all search blocks back to ones; ``reuse``: masks are carried through; ``reset``:
    all masks are ones again after every pruning; ``one-shot``: as main, but the full sparsity
    from the first pruning on."""
    search_interval: int = Field(default=10, ge=1)
    """Epochs between searches: looks for dead atoms, which are removed if there are enough."""
    prune_interval: int = Field(default=25, ge=1)
    """Epochs between prunings."""
    prune_step: float = Field(default=0.1, gt=0, le=1)
    """Sparsity added by each pruning, up to ``sparsity``."""
    rho: float = Field(default=1.8e-4, ge=0, allow_inf_nan=False)
    """Strength of the penalty on gammas; a mean atom is charged rho per unit of gamma."""
    free_epochs: int = Field(default=0, ge=0)
    """Epochs without penalty."""
    warmup_epochs: int = Field(default=25, ge=0)
    """Epoch at which the penalty has risen to rho, in equal steps per epoch."""
    dead_gamma: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """An atom is dead if gamma is at most this."""
    min_dead_macs: int = Field(default=1_000_000, ge=0)
    """A search removes atoms only if the dead ones cost at least this many MACs."""
    min_atoms: float = Field(default=0.05, ge=0, le=1)
    """Share of the atoms of the start that always stays, the largest gammas first: the floor
    that a penalty which kills everything falls on."""
    target_macs: int | None = Field(default=None, ge=1)
    """Dense MACs to end at: rho is then steered after every search. None: rho stays as it is."""
    keep_dense: list[str] | None = None
    """Layers that pruning leaves alone; None: the classifier, and what the net names itself."""

    @model_validator(mode="after")
    def _warm_after_free(self) -> TwoInOneConfig:
        if self.warmup_epochs < self.free_epochs:
            raise ValueError(
                f"warmup_epochs must be at least free_epochs ({self.free_epochs}), "
                f"got {self.warmup_epochs}"
            )
        return self
