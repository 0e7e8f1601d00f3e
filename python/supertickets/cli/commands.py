"""The commands; each resolves a recipe, then asks for stages or for one piece of work."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import supertickets
from supertickets.cli.options import Common, with_common
from supertickets.cli.rank import rank
from supertickets.cli.transfer import transfer

# Torch takes seconds to import; --help and a mistyped option must not wait for it.

_DEFAULT_RECIPE = Common().recipe
_NAS_RECIPE = "digits-nas"

app = typer.Typer(
    name="supertickets",
    help="Find sparse sub-networks in trained networks, on our own compiled kernels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_RECIPE = "from the recipe"

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Recipe keys, such as jackpot.epochs=5."),
]
TicketAndOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TICKET KEY=VALUE",
        help="A ticket folder; then recipe keys, such as jackpot.epochs=5.",
    ),
]
TicketOut = Annotated[
    Path | None,
    typer.Option(help="Also save the ticket here.", show_default="only in the run folder"),
]


@app.command()
@with_common
def run(common: Common, arguments: Overrides = None) -> None:
    """Carry out a whole recipe: train, search jackpots, export, evaluate, report."""
    from supertickets.cli.pipeline import Request, carry_out

    carry_out(Request.read(common, arguments, takes_ticket=False), last="report")


@app.command()
@with_common
def train(common: Common, arguments: Overrides = None, out: TicketOut = None) -> None:
    """Train the dense network and save it as a ticket."""
    from supertickets.cli.pipeline import Request, carry_out

    carry_out(Request.read(common, arguments, takes_ticket=False), last="train", out=out)


@app.command()
@with_common
def supernet(
    common: Common,
    arguments: Overrides = None,
    space: Annotated[
        str | None, typer.Option(help="mbconv.", show_default="from the recipe")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="meta, top1, l1, random or none.", show_default="from the recipe"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Of the supernet.", show_default="from the recipe")
    ] = None,
    min_macs: Annotated[
        int | None, typer.Option(help="Fewest MACs of an image.", show_default="from the recipe")
    ] = None,
    max_macs: Annotated[
        int | None, typer.Option(help="Most MACs of an image.", show_default="from the recipe")
    ] = None,
    out: TicketOut = None,
) -> None:
    """Train a supernet, search a path in it, and save the path's network as a ticket."""
    from supertickets.cli.pipeline import Request, carry_out

    keys = {
        "supernet.space": space,
        "supernet.teacher": teacher,
        "supernet.train.epochs": epochs,
        "supernet.min_macs": min_macs,
        "supernet.max_macs": max_macs,
    }
    options = {key: value for key, value in keys.items() if value is not None}
    if common.recipe == _DEFAULT_RECIPE and common.config is None:
        common = replace(common, recipe=_NAS_RECIPE)
    request = Request.read(common, arguments, takes_ticket=False, options=options)
    carry_out(request, last="supernet", out=out)


@app.command()
@with_common
def jackpot(
    common: Common,
    arguments: TicketAndOverrides = None,
    sparsity: Annotated[
        list[float] | None,
        typer.Option(help="Removed fraction; may be repeated.", show_default="from the recipe"),
    ] = None,
    out: TicketOut = None,
) -> None:
    """Search jackpots in a trained network: TICKET, --weights, or the one the recipe trains."""
    from supertickets.cli.pipeline import Request, carry_out

    options = {"jackpot.sparsities": sparsity} if sparsity else {}
    request = Request.read(common, arguments, takes_ticket=True, options=options)
    carry_out(request, last="jackpot", out=out)


@app.command()
@with_common
def ticket(
    common: Common,
    arguments: Overrides = None,
    arm: Annotated[
        str | None,
        typer.Option(help="main, reuse, reset or one-shot.", show_default=_RECIPE),
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="Removed fraction.", show_default=_RECIPE)
    ] = None,
    out: TicketOut = None,
) -> None:
    """Search an architecture and prune its weights in one training; see the recipes shapes-*."""
    from supertickets.cli.searching import search_ticket

    search_ticket(common, arguments, {"ticket.arm": arm, "ticket.sparsity": sparsity}, out)


@app.command()
@with_common
def evaluate(common: Common, arguments: TicketAndOverrides = None) -> None:
    """Score and time TICKET on its test images; without TICKET, all tickets of the run."""
    from supertickets.cli.pipeline import Request, carry_out, evaluate_ticket

    request = Request.read(common, arguments, takes_ticket=True, of_run=True)
    if request.ticket is None:
        carry_out(request, last="evaluate")
    else:
        evaluate_ticket(request)


@app.command()
@with_common
def export(
    common: Common,
    arguments: TicketAndOverrides = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            help="state-dict, torch.export or onnx; may be repeated.",
            show_default="from the recipe",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the files.", show_default="<TICKET>-export")
    ] = None,
) -> None:
    """Write TICKET as plain PyTorch or ONNX; without TICKET, the run's jackpot nearest 90 %."""
    from supertickets.cli.pipeline import Request, carry_out, export_ticket

    options = {"export.formats": format, "export.if_installed": []} if format else {}
    request = Request.read(common, arguments, takes_ticket=True, of_run=True, options=options)
    if request.ticket is None:
        carry_out(request, last="export", out=out)
    else:
        export_ticket(request, out)


app.add_typer(rank)
app.command()(transfer)


@app.command()
@with_common
def report(
    common: Common,
    folder: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Run folder.", show_default="runs/<name>")
    ] = None,
) -> None:
    """Write the page of a run folder again, from what its stages have recorded."""
    from supertickets.cli.pipeline import Request, write_page

    write_page(Request.read(common, None, takes_ticket=False), folder)


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Print versions and facts of the machine, and test each operator; 1 if something fails."""
    from supertickets.cli.output import Output
    from supertickets.doctor import examine

    found = examine()
    Output(as_json=json).result(found.as_dict(), found.lines())
    raise typer.Exit(0 if found.healthy else 1)


@app.command()
def bench(
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")] = "cpu",
    op: Annotated[
        list[str] | None,
        typer.Option(help="Operator; may be repeated.", show_default="all of them"),
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Rehearse on one small case each.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check the operators on a device, then time them next to what torch offers."""
    from supertickets.bench import OPERATORS
    from supertickets.bench import bench as carry_out
    from supertickets.cli.output import Output, report_error

    output = Output(as_json=json)
    try:
        found = carry_out(device, op or OPERATORS, tiny=tiny, out=out, news=output.news)
    except Exception as error:
        raise typer.Exit(report_error(error, output, debug=False)) from error
    output.result(found, [f"{len(found['rows'])} cases on {found['device']}, all right"])


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(supertickets.__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    Args:
        arguments: Without the program's name; none: those of this process.
    """
    if arguments is not None:
        sys.argv[1:] = arguments
    result: Any = app(standalone_mode=True)
    sys.exit(result)
