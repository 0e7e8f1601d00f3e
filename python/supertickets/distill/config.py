"""How a supernet is trained: the options of one-shot search."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]


class SupernetConfig(BaseModel):
    """Options of :class:`supertickets.distill.SupernetTraining`; checked whole before any work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: Literal["meta", "top1", "l1", "random", "none"] = Field(
        default="meta", description="who teaches the sampled path: an entry of the board, or nobody"
    )
    prior: dict[str, Finite] | None = Field(
        default=None, description="operation: weight of sampling; none is uniform"
    )
    min_macs: int | None = Field(default=None, ge=0)
    max_macs: int | None = Field(default=None, ge=1)
    warmup: Finite = Field(
        default=1 / 6, ge=0, lt=1, description="share of the epochs without board and teacher"
    )
    label_smoothing: Finite = Field(default=0.1, ge=0, lt=1)
    temperature: Finite = Field(default=1.0, gt=0, description="of teacher and student")
    board_size: int = Field(default=10, ge=1)
    board_rule: Literal["paper", "pareto", "top"] = "top"
    board_gap: Finite = Field(
        default=0.05, ge=0, description="rule paper: this much better needs no fewer MACs"
    )
    confirm: bool = Field(
        default=True, description="score a path on the slice before the board takes it"
    )
    rescore_epochs: int = Field(
        default=5, ge=0, description="how often the board is scored on validation; 0 is never"
    )
    rescore_images: int = Field(default=128, ge=2, description="images of the validation slice")
    slice: int = Field(default=4, ge=1, description="images of the matching network")
    meta_interval: int = Field(default=200, ge=1, description="steps between its updates")
    meta_lr: Finite = Field(default=1e-4, gt=0)
    tau_paths: int = Field(
        default=0, ge=0, description="random paths whose ranking is compared between epochs"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> SupernetConfig:
        if self.tau_paths in (1, 2):
            raise ValueError(f"tau_paths must be 0 or at least 3, got {self.tau_paths}")
        return self
