"""The ``supertickets`` command."""

from __future__ import annotations

from supertickets.cli.commands import app, main

__all__ = ["app", "main"]
