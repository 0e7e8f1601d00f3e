"""One offline HTML page per run: what was found, the evidence, and how it was made."""

from __future__ import annotations

from supertickets.report.page import write_report

__all__ = ["write_report"]
