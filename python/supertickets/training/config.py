"""How one model is trained: the options every training stage shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]


class TrainConfig(BaseModel):
    """Options of :func:`supertickets.training.train`; checked whole before any work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=30, ge=1, description="passes over the training split")
    batch_size: int = Field(default=64, ge=1, description="samples per batch and process")
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    lr: Finite = Field(default=0.1, gt=0, description="peak learning rate")
    momentum: Finite = Field(default=0.9, ge=0, lt=1, description="of sgd and rmsprop")
    nesterov: bool = Field(default=False, description="Nesterov momentum, sgd only")
    rmsprop_alpha: Finite = Field(default=0.99, gt=0, lt=1, description="of rmsprop")
    eps: Finite = Field(default=1e-8, gt=0, description="of adam, adamw and rmsprop")
    weight_decay: Finite = Field(
        default=5e-4, ge=0, description="added to the gradient; adamw: not"
    )
    decay_norms: bool = Field(
        default=True, description="whether batch norms and biases decay as well"
    )
    schedule: Literal["cosine", "one-cycle", "step", "decay", "constant"] = "cosine"
    schedule_unit: Literal["epoch", "step"] = Field(
        default="epoch", description="how often the learning rate changes"
    )
    warmup_epochs: int = Field(default=0, ge=0, description="epochs of linear rise to the peak")
    step_epochs: tuple[int, ...] = Field(
        default=(),
        description="schedule step: finished epochs after which lr is multiplied by step_gamma",
    )
    step_gamma: Finite = Field(default=0.1, gt=0, le=1)
    decay_epochs: Finite = Field(
        default=1.0, gt=0, description="schedule decay: lr is multiplied by step_gamma so often"
    )
    label_smoothing: Finite = Field(default=0.0, ge=0, lt=1)
    ema_decay: Finite = Field(
        default=0.0, ge=0, lt=1, description="average of the weights; 0 is off"
    )
    clip_norm: Finite = Field(default=0.0, ge=0, description="largest gradient norm; 0 is off")
    accumulate: int = Field(default=1, ge=1, description="batches per optimizer step")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="of autocast")
    bn_recalibration_batches: int = Field(
        default=0,
        ge=0,
        description="batches that re-estimate BN statistics before a model is scored",
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="the epoch that is kept at the end"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs optimizer 'sgd' with momentum > 0")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be below epochs ({self.epochs}), got {self.warmup_epochs}"
            )
        if self.schedule == "one-cycle" and self.warmup_epochs:
            raise ValueError("schedule 'one-cycle' has its own rise: set warmup_epochs to 0")
        if (self.schedule == "step") != bool(self.step_epochs):
            raise ValueError("step_epochs must be given for schedule 'step', and only for it")
        if (
            list(self.step_epochs) != sorted(set(self.step_epochs))
            or min(self.step_epochs, default=1) < 1
        ):
            raise ValueError(
                f"step_epochs must be positive and ascending, got {list(self.step_epochs)}"
            )
        return self
