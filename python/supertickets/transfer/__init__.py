"""A ticket on a new task: what is kept, what is new, and what else would explain the score."""

from __future__ import annotations

from supertickets.transfer.carry import Carried, carry
from supertickets.transfer.config import TransferConfig
from supertickets.transfer.controls import CONTROLS, ControlTickets, control_rows
from supertickets.transfer.transfer import Transferred, transfer

__all__ = [
    "CONTROLS",
    "Carried",
    "ControlTickets",
    "TransferConfig",
    "Transferred",
    "carry",
    "control_rows",
    "transfer",
]
