"""One-shot search with distillation from prioritized paths."""

from supertickets.distill.board import Board, Entry, Event
from supertickets.distill.config import SupernetConfig
from supertickets.distill.supernet import SupernetTraining

__all__ = ["Board", "Entry", "Event", "SupernetConfig", "SupernetTraining"]
