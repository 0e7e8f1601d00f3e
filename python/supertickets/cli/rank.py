"""The commands that rank architectures without training them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from supertickets.cli.options import Common, with_common

rank = typer.Typer(
    name="rank",
    help="Rank architectures without training: the pruning search of TE-NAS, and its scores.",
    no_args_is_help=True,
)

_PRESET = "by the preset"

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Recipe keys, such as rank.region_samples=1000."),
]
Fast = Annotated[
    bool, typer.Option("--fast", help="One repeat and small kernels instead of the paper's.")
]
Repeats = Annotated[
    int | None, typer.Option(help="Draws of weights and images.", show_default=_PRESET)
]
Batch = Annotated[int | None, typer.Option(help="Images of the kernel.", show_default=_PRESET)]
Indicators = Annotated[
    list[str] | None,
    typer.Option(
        help="kappa, regions, naswot, synflow ..., 'combined', or MODULE:NAME of your own; may be "
        "repeated.",
        show_default="kappa and regions",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(help="SQLite file of the scores.", show_default="<runs>/scores.sqlite"),
]
Workers = Annotated[
    int | None, typer.Option(help="Scoring processes; 0: one per core.", show_default="0")
]


def _options(
    fast: bool,
    repeats: int | None,
    ntk_batch: int | None,
    store: Path | None,
    workers: int | None,
    **others: Any,
) -> dict[str, Any]:
    """Turn the commands' options into recipe keys; what was not given is left out."""
    keys = {
        "preset": "fast" if fast else None,
        "repeats": repeats,
        "ntk_batch": ntk_batch,
        "store": store and str(store),
        "workers": workers,
        **others,
    }
    return {f"rank.{key}": value for key, value in keys.items() if value is not None}


@rank.command()
@with_common
def search(
    common: Common,
    arguments: Overrides = None,
    space: Annotated[
        str | None,
        typer.Option(help="nasbench201 or darts.", show_default="nasbench201"),
    ] = None,
    fast: Fast = False,
    imagenet: Annotated[
        bool, typer.Option("--imagenet", help="The settings published for ImageNet.")
    ] = False,
    repeats: Repeats = None,
    ntk_batch: Batch = None,
    prune: Annotated[
        int | None,
        typer.Option(help="Operations that leave an edge in a round.", show_default=_PRESET),
    ] = None,
    finish: Annotated[
        str | None,
        typer.Option(
            help="Who decides the last round: rule, or combined (nasbench201: the combined ranking "
            "of the paths that are left).",
            show_default="rule",
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Accuracies (CSV) to look the found cell up in.")
    ] = None,
    store: Store = None,
    workers: Workers = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Also save the ticket here.", show_default="only in the run folder"),
    ] = None,
) -> None:
    """Prune a supernet to one architecture, without labels and training; saves it as a ticket."""
    from supertickets.cli.ranking import search_architecture
    from supertickets.errors import ConfigError

    if fast and imagenet:
        raise ConfigError("--fast and --imagenet: only one of them can be taken")
    preset = {"preset": "imagenet"} if imagenet else {}
    options = _options(
        fast, repeats, ntk_batch, store, workers,
        space=space, prune=prune, finish=finish, table=table and str(table), **preset,
    )  # fmt: skip
    search_architecture(common, arguments, options, out)


@rank.command()
@with_common
def score(
    common: Common,
    archs: Annotated[
        list[str],
        typer.Argument(metavar="ARCH...", help="NAS-Bench-201 strings or DARTS genotypes."),
    ],
    indicator: Indicators = None,
    fast: Fast = False,
    repeats: Repeats = None,
    ntk_batch: Batch = None,
    store: Store = None,
    workers: Workers = None,
) -> None:
    """Score architectures of one space, beside their parameters and MACs; the best first."""
    from supertickets.cli.ranking import score_architectures

    options = _options(fast, repeats, ntk_batch, store, workers)
    score_architectures(common, archs, options, indicator or ())


@rank.command()
@with_common
def correlate(
    common: Common,
    table: Annotated[
        Path,
        typer.Option(help="CSV (or .gz) with 'arch' and accuracies, or files of nats_bench."),
    ],
    arguments: Overrides = None,
    cells: Annotated[
        int, typer.Option(help="Architectures drawn from the table; 0: all.", min=0)
    ] = 300,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Column of accuracies; may be repeated.", show_default="all"),
    ] = None,
    indicator: Indicators = None,
    bootstrap: Annotated[
        int, typer.Option(help="Samples behind an interval.", min=2, max=100_000)
    ] = 300,
    fast: Fast = False,
    repeats: Repeats = None,
    ntk_batch: Batch = None,
    store: Store = None,
    workers: Workers = None,
) -> None:
    """Compare scores with trained accuracies: Kendall, Spearman and weighted tau."""
    from supertickets.cli.ranking import correlate_with_table

    options = _options(fast, repeats, ntk_batch, store, workers)
    correlate_with_table(
        common, arguments, options, table,
        cells=cells, columns=column or (), indicators=indicator or (), bootstrap=bootstrap,
    )  # fmt: skip
