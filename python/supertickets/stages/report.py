"""The stage that writes the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from supertickets.report import write_report
from supertickets.stages.base import Room, Stage

REPORT_FILE = "report.html"


def report_stage(stages: Sequence[str]) -> Stage:
    """Make the stage that writes ``report.html`` into the run folder.

    Args:
        stages: Names of the stages that the page shows.

    Returns:
        The stage; its figures are the page's name and bytes.
    """
    return Stage(
        name="report",
        kind="report",
        config={},
        needs=tuple(stages),
        work=_work,
        reads_figures=True,
        also=(REPORT_FILE,),
    )


def _work(room: Room) -> dict[str, Any]:
    page = write_report(room.run)
    return {"page": page.name, "bytes": page.stat().st_size}
