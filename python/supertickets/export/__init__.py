"""Files that run where this package is not installed."""

from __future__ import annotations

from supertickets.export.export import FORMATS, ExportRecord, export_ticket, missing_packages

__all__ = ["FORMATS", "ExportRecord", "export_ticket", "missing_packages"]
