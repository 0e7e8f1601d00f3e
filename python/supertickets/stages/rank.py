"""The stages that search an architecture without training, and that test scores against a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from supertickets.config import Recipe
from supertickets.data import load_data
from supertickets.errors import InputError
from supertickets.hashing import listing_hash
from supertickets.rank import (
    INDICATORS,
    Found,
    ScoreConfig,
    ScoreImages,
    Scorer,
    ScoreStore,
    combined_choice,
    correlation_figures,
    load_table,
    rank_candidates,
    round_as_dict,
    scores_as_dict,
    search,
    sign_of,
    sizes,
)
from supertickets.rank.indicators import get_indicator
from supertickets.seeds import generator
from supertickets.spaces import CellSpace, ModelConfig, build_model, cell_space
from supertickets.stages.base import (
    TICKET,
    Room,
    Stage,
    data_hash,
    data_options,
    data_provenance,
)
from supertickets.ticket import Ticket
from supertickets.training import is_main_process, on_main

RANK = "rank"
CORRELATE = "correlate"
STORE_FILE = "scores.sqlite"

_WITHOUT_EFFECT = {"store", "workers", "table"}


def rank_stage(recipe: Recipe) -> Stage:
    """Make the stage that searches ``recipe.rank.space`` and saves what it finds as a ticket.

    Args:
        recipe: The resolved recipe.

    Returns:
        The stage; its figures are the architecture, its scores and size, and every round.
    """
    options = recipe.rank.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
    score = recipe.rank.score.model_dump(mode="json")
    return Stage(
        name=RANK,
        kind="rank",
        config={
            "data": data_options(recipe.data),
            "rank": {**options, **score, "prune": recipe.rank.prune_number},
        },
        needs=(),
        work=lambda room: _search(recipe, room),
        outside=lambda: data_hash(recipe.data) | _table_hash(recipe.rank.table),
        collective=True,
    )


def correlate_stage(
    recipe: Recipe,
    table: Path,
    *,
    cells: int,
    columns: Sequence[str] = (),
    indicators: Sequence[str] = INDICATORS,
    bootstrap: int = 300,
) -> Stage:
    """Make the stage that scores architectures of a table and compares with its accuracies.

    Args:
        recipe: The resolved recipe.
        table: A CSV file, or the files of ``nats_bench``.
        cells: How many architectures are drawn from it; 0: all.
        columns: Columns of accuracies; none: all.
        indicators: What is measured.
        bootstrap: Samples behind an interval.
    """
    return Stage(
        name=CORRELATE,
        kind="correlate",
        config={
            "data": data_options(recipe.data),
            "score": recipe.rank.score.model_dump(mode="json"),
            "cells": cells,
            "columns": list(columns),
            "indicators": {name: get_indicator(name).code for name in indicators},
            "bootstrap": bootstrap,
        },
        needs=(),
        work=lambda room: _correlate(recipe, room, table, cells, columns, indicators, bootstrap),
        outside=lambda: data_hash(recipe.data) | _table_hash(table),
        collective=True,
    )


@contextmanager
def open_scorer(recipe: Recipe, folder: Path, config: ScoreConfig) -> Iterator[Scorer]:
    """Open the store and the processes that score.

    Args:
        recipe: Names data, seed, store and workers.
        folder: Where the store goes if the recipe names none.
        config: How networks are scored.

    Yields:
        The scorer.
    """
    if torch.device(recipe.device).type != "cpu":
        raise InputError(f"rank: the kernels of this stage run on the cpu, got {recipe.device!r}")
    images = ScoreImages(load_data(recipe.data))
    path = recipe.rank.store or folder / STORE_FILE
    store = on_main(lambda: None if not is_main_process() else _check_store(path))
    mine = ScoreStore(path) if is_main_process() else store
    try:
        with Scorer(images, config, recipe.seed, mine, recipe.rank.workers) as scorer:
            yield scorer
    finally:
        if mine is not None:
            mine.close()


def _check_store(path: Path) -> None:
    """Open and close it, so that every process of a group hears of a fault."""
    ScoreStore(path).close()


def _table_hash(table: Path | None) -> dict[str, str]:
    if table is None:
        return {}
    if not table.exists():
        raise InputError(f"table: expected a CSV file, found none at {str(table)!r}")
    return {"table": listing_hash(table)}


def _search(recipe: Recipe, room: Room) -> dict[str, Any]:
    options, space = recipe.rank, cell_space(recipe.rank.space)
    table = load_table(options.table) if options.table is not None else None
    with open_scorer(recipe, room.run.parent, options.score) as scorer:
        found = search(
            space, scorer, prune=options.prune_number, progress=room.progress, log=room.log
        )
        measured, reused = scorer.measured, scorer.reused
    if options.finish == "combined":
        once = options.score.model_copy(update={"repeats": 1})
        with open_scorer(recipe, room.run.parent, once) as scorer:
            found = combined_choice(found, scorer, progress=room.progress)
            measured, reused = measured + scorer.measured, reused + scorer.reused
    arch = space.format(found.path)
    (size,) = sizes([found.path])
    figures = {
        "space": space.name,
        "arch": arch,
        "scores": scores_as_dict(found.scores),
        "parameters": size.parameters,
        "macs": size.macs,
        "accuracies": table.of(found.path) if table is not None else None,
        "table_shares": table.shares_below(found.path) if table is not None else None,
        "evaluations": found.evaluations,
        "measured": measured,
        "reused": reused,
        "rounds": [round_as_dict(one, space) for one in found.rounds],
    }
    on_main(lambda: _save(recipe, room, found, space))
    return figures


def _save(recipe: Recipe, room: Room, found: Found, space: CellSpace) -> None:
    """Save the evaluation network, untrained, as a ticket, and the architecture as text."""
    data = load_data(recipe.data)
    model = ModelConfig(space=recipe.rank.space, name=space.format(found.path))
    net = build_model(model, num_classes=data.num_classes, channels=data.channels, seed=recipe.seed)
    ticket = Ticket.from_model(
        net,
        {
            "space": model.space,
            "name": model.name,
            "options": model.options,
            "num_classes": data.num_classes,
            "channels": data.channels,
            "image_size": list(data.image_size),
        },
        class_names=data.class_names,
        provenance={
            "stage": RANK,
            "trained": False,
            "recipe": recipe.name,
            "seed": recipe.seed,
            **data_provenance(recipe.data, data),
        },
    )
    ticket.save_pretrained(room.folder / TICKET)
    (room.folder / "genotype.txt").write_text(model.name + "\n", encoding="utf-8")


def _correlate(
    recipe: Recipe,
    room: Room,
    table_file: Path,
    cells: int,
    columns: Sequence[str],
    indicators: Sequence[str],
    bootstrap: int,
) -> dict[str, Any]:
    table = load_table(table_file, columns)
    count = len(table.candidates)
    rng = generator(recipe.seed, "rank", "cells")
    drawn = torch.randperm(count, generator=rng)[: cells or count].sort().values
    part = table.take(drawn.tolist())
    with open_scorer(recipe, room.run.parent, recipe.rank.score) as scorer:
        ranking = rank_candidates(
            part.candidates, scorer, indicators=indicators, progress=room.progress
        )
    everything = replace(
        ranking,
        candidates=table.candidates,
        scores=(),
        sizes=tuple(sizes(table.candidates)) if table.space == "nasbench201" else (),
        indicators=(),
    )
    return {
        "space": table.space,
        "cells": len(part.candidates),
        "table_cells": count,
        "correlations": correlation_figures(
            ranking, dict(part.accuracies), bootstrap=bootstrap, seed=recipe.seed
        ),
        "whole_table": correlation_figures(
            everything, dict(table.accuracies), bootstrap=min(bootstrap, 50), seed=recipe.seed
        )
        if everything.sizes
        else None,
        "columns": {name: ranking.values(name) for name in ranking.columns},
        "signs": {name: sign_of(name) for name in ranking.columns},
        "repeats": {
            name: [scores.values(name) for scores in ranking.scores] for name in ranking.indicators
        },
        "accuracies": {name: list(values) for name, values in part.accuracies.items()},
        "archs": [cell_space(table.space).format(one) for one in part.candidates],
    }
