"""The options of a pruning search, and the published numbers behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, model_validator

Preset = Literal["paper", "imagenet", "fast"]

# (images of a kernel, operations removed per edge and round, repeats) by space and preset: Chen et
# al. 2021, and for "fast" the least that still finds good cells
_PRESETS: dict[tuple[str, Preset], tuple[int, int, int]] = {
    ("nasbench201", "paper"): (72, 1, 3),
    ("nasbench201", "fast"): (16, 1, 1),
    ("darts", "paper"): (14, 3, 3),
    ("darts", "imagenet"): (24, 2, 3),
    ("darts", "fast"): (4, 3, 1),
}


class ScoreConfig(BaseModel, extra="forbid"):
    """How one network is scored."""

    ntk_batch: int = Field(default=72, ge=2)
    """Images of the kernel; its condition number grows with them."""
    repeats: int = Field(default=3, ge=1)
    """Draws of weights and images."""
    region_samples: int = Field(default=3000, ge=1)
    """Crops of 3x3 pixels that regions are counted over, all of them distinct at most."""
    batch: int = Field(default=32, ge=2)
    """Images of the indicators that read the evaluation network."""


class RankConfig(BaseModel, extra="forbid"):
    """The pruning search of TE-NAS (arXiv 2102.11535); ``None`` takes the preset's number."""

    space: Literal["nasbench201", "darts"] = "nasbench201"
    preset: Preset = "paper"
    """``paper``: the published CIFAR-10 settings; ``imagenet``: DARTS as published for ImageNet;
    ``fast``: one repeat and small kernels."""
    ntk_batch: int | None = Field(default=None, ge=2)
    prune: int | None = Field(default=None, ge=1)
    """Operations that leave each edge in a round."""
    repeats: int | None = Field(default=None, ge=1)
    region_samples: int = Field(default=3000, ge=1)
    batch: int = Field(default=32, ge=2)
    """Images of the indicators that read the evaluation network; the search takes none of them."""
    finish: Literal["rule", "combined"] = "rule"
    """``rule``: the last round decides as the others do; ``combined``: the combined ranking of the
    paths that were left before it (``nasbench201`` only)."""
    table: Path | None = None
    """Accuracies to look the found cell up in."""
    store: Path | None = None
    """File of the scores; none: beside the runs."""
    workers: int = Field(default=0, ge=0)
    """Scoring processes; 0: one per core. The result does not depend on them."""

    @model_validator(mode="after")
    def _published(self) -> RankConfig:
        if (self.space, self.preset) not in _PRESETS:
            raise ValueError(
                f"preset {self.preset!r}: expected space 'darts', the only one with settings "
                f"published for it, got {self.space!r}"
            )
        if self.finish == "combined" and self.space != "nasbench201":
            raise ValueError(
                "finish 'combined': expected space 'nasbench201', where few paths are left before "
                f"the last round, got {self.space!r}"
            )
        return self

    @property
    def score(self) -> ScoreConfig:
        """How networks are scored."""
        batch, _, repeats = _PRESETS[self.space, self.preset]
        return ScoreConfig(
            ntk_batch=self.ntk_batch or batch,
            repeats=self.repeats or repeats,
            region_samples=self.region_samples,
            batch=self.batch,
        )

    @property
    def prune_number(self) -> int:
        """Operations that leave each edge in a round."""
        return self.prune or _PRESETS[self.space, self.preset][1]
