"""The options of one mask search."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from supertickets.prune.rates import RateKind


class JackpotConfig(BaseModel, extra="forbid"):
    """How a jackpot is searched.

    Defaults follow the published code, but for the restriction, which is on, and the first scores;
    ``start="magnitude", unit="score", gap=0.01`` are the published ones.
    """

    sparsity: float = Field(default=0.9, ge=0, lt=1, allow_inf_nan=False)
    """Fraction removed, over the weights of the masked layers."""
    rates: RateKind = "l1"
    """How the sparsity is shared out: l1 (global magnitude), uniform or erk."""
    keep_dense: Literal["classifier"] | list[str] = "classifier"
    """Layers left untouched: the classifier, or a list of layer names."""
    start: Literal["graded", "magnitude", "random"] = "graded"
    """The first scores. ``graded`` and ``magnitude`` both start from the magnitude mask: graded
    ranks the removed weights, so that those near the threshold come back first; magnitude gives
    all of them one score, as the published code does."""
    gap: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """From magnitude: distance of a removed weight's first score below a kept weight's; for
    ``graded`` the distance of a weight of 0."""
    spread: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """From random: extent of the first scores."""
    unit: Literal["steps", "score"] = "steps"
    """What gap and spread count in: steps of each layer's typical score gradient, so that layers
    and learning rates compare; or plain score, as in the published code (there gap is 0.01)."""
    restriction: Literal["none", "ratio", "cap"] = "ratio"
    """Bound on the swaps per layer and step: none, ceil(wanted * (1 - t/T)^exponent), or cap."""
    exponent: float = Field(default=4.0, ge=0, allow_inf_nan=False)
    """For ratio; t is the epoch, from 0, and T the number of epochs."""
    cap: int = Field(default=64, ge=1)
    """Swaps per layer and step, for cap."""
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=256, ge=1)
    lr: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """First learning rate of the scores; a cosine takes it to 0."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    """On the scores."""
    bn_batches: int = Field(default=32, ge=0)
    """Training batches that re-estimate batch-norm statistics before the masked network is scored
    and kept; 0: the running averages of the search, as in the published code, which lag behind
    the mask where an epoch has few steps."""
    tune_epochs: int = Field(default=0, ge=0)
    """Epochs of weight training with the found mask; 0: the weights stay as they were."""
    tune_lr: float = Field(default=0.01, gt=0, allow_inf_nan=False)
