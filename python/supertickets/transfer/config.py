"""How a ticket is brought to a new task."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class TransferConfig(BaseModel):
    """Options of :func:`supertickets.transfer.transfer` and of its control rows.

    Attributes:
        freeze: Train the new layers only; the others keep weights and batch-norm statistics.
        images: Train on this many images of the train split; ``None``: on all.
        controls: Also train the control rows.
        dense: Ticket without masks that holds the weights behind the transferred ticket's masks;
            for the rows ``shuffled-mask`` and ``dense``.
        native: Ticket found on the new task itself; for the row ``native``.
        random: Ticket whose architecture, alone, stands for a random one; for the row ``random``,
            which without it has the ticket's own architecture.
        shuffled_labels: Ticket found on the old task with labels in disorder; for the row of that
            name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    freeze: bool = False
    images: int | None = Field(default=None, ge=2)
    controls: bool = False
    dense: Path | None = None
    native: Path | None = None
    random: Path | None = None
    shuffled_labels: Path | None = None
