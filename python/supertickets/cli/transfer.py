"""The command that brings a ticket to another task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from supertickets.cli.options import Common, with_common


@with_common
def transfer(
    common: Common,
    ticket: Annotated[Path, typer.Argument(metavar="TICKET", help="A ticket folder.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Recipe keys, such as train.epochs=5."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classification, segmentation or keypoints (or cls, seg, pose).",
            show_default="what the data is for",
        ),
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Train the new layers only.")] = False,
    images: Annotated[
        int | None,
        typer.Option(help="Train on this many images.", show_default="all of the train split"),
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also train the control rows.")
    ] = False,
    dense: Annotated[
        Path | None,
        typer.Option(help="Ticket with the weights behind the masks.", show_default="none"),
    ] = None,
    native: Annotated[
        Path | None, typer.Option(help="Ticket found on the new task.", show_default="none")
    ] = None,
    random: Annotated[
        Path | None,
        typer.Option(
            help="Ticket that gives the random architecture.", show_default="TICKET's own"
        ),
    ] = None,
    shuffled_labels: Annotated[
        Path | None,
        typer.Option(help="Ticket found with labels in disorder.", show_default="none"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Also save the ticket here.", show_default="only in the run folder"),
    ] = None,
) -> None:
    """Bring TICKET to another task: masks fixed, weights reused, new outputs trained."""
    from supertickets.cli.transferring import transfer_ticket

    given: dict[str, Any] = {
        "freeze": freeze or None,
        "images": images,
        "controls": controls or None,
        "dense": dense and str(dense),
        "native": native and str(native),
        "random": random and str(random),
        "shuffled_labels": shuffled_labels and str(shuffled_labels),
    }
    options = {f"transfer.{key}": value for key, value in given.items() if value is not None}
    transfer_ticket(common, ticket, arguments or [], task, options, out)
