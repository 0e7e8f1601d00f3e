"""The stage that writes one ticket in formats that need none of our packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supertickets.config import Recipe
from supertickets.errors import ConfigError
from supertickets.export import export_ticket, missing_packages
from supertickets.stages.base import TICKET, Room, Stage, jackpot_name, skeleton
from supertickets.ticket import Ticket


def export_stage(recipe: Recipe) -> Stage:
    """Make the stage that exports the recipe's chosen jackpot.

    Args:
        recipe: The resolved recipe.

    Returns:
        The stage; its figures are one row per file, and the formats that were left out.

    Raises:
        ConfigError: A package that a demanded format needs is missing.
    """
    source = jackpot_name(recipe.exported_sparsity)
    formats, skipped = choose_formats(recipe)
    return Stage(
        name="export",
        kind="export",
        config={"ticket": source, "formats": formats, "skipped": skipped},
        needs=(source,),
        work=lambda room: _work(recipe, formats, skipped, source, room),
    )


def choose_formats(recipe: Recipe) -> tuple[list[str], list[str]]:
    """Decide which formats are written.

    Args:
        recipe: Reads ``export.formats`` and ``export.if_installed``.

    Returns:
        The formats to write, and those left out because packages are missing.

    Raises:
        ConfigError: A package that a demanded format needs is missing.
    """
    demanded: list[str] = list(recipe.export.formats)
    for name in demanded:
        if missing := missing_packages(name):
            raise ConfigError(
                f"export.formats: {name} needs {', '.join(missing)}, not installed here; "
                "run: pip install 'supertickets[onnx]'"
            )
    optional: list[str] = [name for name in recipe.export.if_installed if name not in demanded]
    skipped = [name for name in optional if missing_packages(name)]
    return demanded + [name for name in optional if name not in skipped], skipped


def export_files(
    recipe: Recipe, ticket_folder: Path, folder: Path, formats: Sequence[str]
) -> list[dict[str, Any]]:
    """Export one ticket.

    Args:
        recipe: Names the user's factory for a ticket that needs one.
        ticket_folder: The ticket.
        folder: Where the files go.
        formats: Which are written.

    Returns:
        One row per file; ``path`` is relative to ``folder``.

    Raises:
        TicketError: The ticket is damaged.
        RunError: A file cannot be written, or gives another output than the ticket.
    """
    ticket = Ticket.from_pretrained(ticket_folder)
    model = skeleton(ticket, recipe.model, seed=recipe.seed)
    return [dict(record) for record in export_ticket(ticket, folder, formats, model=model)]


def _work(
    recipe: Recipe, formats: Sequence[str], skipped: Sequence[str], source: str, room: Room
) -> dict[str, Any]:
    for name in skipped:
        room.log(f"      {name} left out: {', '.join(missing_packages(name))} not installed")
    rows = export_files(recipe, room.run / source / TICKET, room.folder, formats)
    files = [{**row, "path": f"{room.folder.name}/{row['path']}"} for row in rows]
    return {"ticket": source, "files": files, "skipped": list(skipped)}
