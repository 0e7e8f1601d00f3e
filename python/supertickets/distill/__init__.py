"""One-shot search with distillation from prioritized paths."""

from supertickets.distill.board import Board, Entry, Event

__all__ = ["Board", "Entry", "Event"]
