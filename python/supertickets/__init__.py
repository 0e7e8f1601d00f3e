"""Rank, search, distill and prune convolutional networks; hand the result on as a ticket."""

from __future__ import annotations

__version__ = "0.1.0"
