"""What the start, gap and restriction of a mask search are worth, on validation only.

    python -m benchmarks.ablate_search            # every arm, development seeds 100 to 103
    python -m benchmarks.ablate_search --quick    # one net, one seed, few epochs, its own file

The seeds, and with them splits and nets, are not the study's, and the test split is never read:
here defaults are chosen. Finished cells are kept; a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.jackpot_nets import NETS, PUBLISHED, Settings, digits_data, trained
from benchmarks.jackpot_tables import interval
from supertickets.data import ImageData
from supertickets.files import write_json
from supertickets.machine import machine, usable_cores, versions
from supertickets.prune import (
    JackpotConfig,
    find_jackpot,
    layer_rates,
    magnitude_masks,
    maskable_layers,
)
from supertickets.prune.step_length import step_lengths

RESULTS = Path(__file__).resolve().parent / "results"
FIRST_SEED = 100
NETS_HERE = ("digits-16", "digits", "mlp")
SPARSITIES = (0.98, 0.95, 0.9)
SHOWN_EPOCHS = (1, 3, 10)
SCORE: dict[str, Any] = {"unit": "score"}
RANDOM: dict[str, Any] = {"start": "random"}
TWO_LEVELS: dict[str, Any] = {"start": "magnitude"}
GRADED: dict[str, Any] = {"start": "graded"}
ARMS: dict[str, dict[str, Any]] = {
    "published": PUBLISHED,
    "published, free": {**PUBLISHED, "restriction": "none"},
    "two levels 0.03": {**PUBLISHED, "gap": 0.03},
    "two levels 0.1": {**PUBLISHED, "gap": 0.1},
    "graded 0.1": {**GRADED, **SCORE, "gap": 0.1},
    "two levels, 30 steps": TWO_LEVELS,
    "graded, 30 steps": GRADED,
    "graded, 30 steps, free": {**GRADED, "restriction": "none"},
    "graded, 30 steps, batch 32": {**GRADED, "batch_size": 32},
    "random 0.01": {**RANDOM, **SCORE, "spread": 0.01},
    "random, 3 steps": RANDOM,
}
"""Options of a search besides the settings; a free search has no restriction."""
HARDEST_ONLY = {
    "published, free",
    "two levels 0.1",
    "graded, 30 steps, free",
    "graded, 30 steps, batch 32",
}
"""Measured at the highest sparsity alone: below it they cannot be told from the others."""


class Cell(NamedTuple):
    """One search."""

    net: str
    sparsity: float
    arm: str
    seed: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells that are missing, store everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds (default: 4)")
    parser.add_argument("--quick", action="store_true", help="a short look: one seed, few epochs")
    parser.add_argument("--output", type=Path, help="result file (default: below results/)")
    given = parser.parse_args(arguments)
    settings = Settings(train_epochs=4, search_epochs=4) if given.quick else Settings()
    name = "search_ablation_quick.json" if given.quick else "search_ablation.json"
    path = given.output or RESULTS / name
    seeds = range(FIRST_SEED, FIRST_SEED + (1 if given.quick else given.seeds))
    nets = NETS_HERE[:1] if given.quick else NETS_HERE
    done = _stored(path, settings)
    # a seed's arms stand together, so that a process trains each net once
    wanted = [
        Cell(net, sparsity, arm, seed)
        for net in nets
        for seed in seeds
        for sparsity in SPARSITIES
        for arm in ARMS
        if sparsity == SPARSITIES[0] or arm not in HARDEST_ONLY
    ]
    missing = [cell for cell in wanted if cell not in done]
    print(f"{len(wanted)} cells, {len(wanted) - len(missing)} of them already done")
    spawn = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    with ProcessPoolExecutor(usable_cores(), mp_context=spawn) as pool:
        for future in as_completed([pool.submit(_measure, cell, settings) for cell in missing]):
            cell, result = future.result()
            done[cell] = result
            _save(path, done, settings, ())
    layers = [row for net in nets for row in _layers(net, settings)]
    _save(path, done, settings, layers)
    for line in table(summarise(done)):
        print(line)
    print(f"\nstored in {path}")


def _measure(cell: Cell, settings: Settings) -> tuple[Cell, dict[str, Any]]:
    torch.set_num_threads(1)
    model, data = _trained(cell.net, cell.seed, settings)
    common = {"epochs": settings.search_epochs, "batch_size": settings.batch_size}
    config = JackpotConfig(sparsity=cell.sparsity, **{**common, **ARMS[cell.arm]})
    found = find_jackpot(model, data, config, seed=cell.seed, progress=False)
    return cell, {
        "validation_curve": [round(row["validation_accuracy"], 5) for row in found.history],
        "overlap_magnitude": [round(row["overlap_magnitude"], 4) for row in found.history],
    }


@cache
def _trained(net: str, seed: int, settings: Settings) -> tuple[nn.Module, ImageData]:
    data = digits_data(NETS[net], seed)
    return trained(NETS[net].model, data, seed, settings), data


def _layers(net: str, settings: Settings) -> Iterator[dict[str, Any]]:
    """Say for the first seed how fast the scores of each layer move at the magnitude mask."""
    model, data = _trained(net, FIRST_SEED, settings)
    layers = maskable_layers(model)
    loader = data.loader("train", batch_size=settings.batch_size, seed=FIRST_SEED)
    for sparsity in SPARSITIES:
        masks = magnitude_masks(layers, layer_rates(layers, sparsity))
        lengths = step_lengths(model, masks, loader, JackpotConfig())
        for name, mask in masks.items():
            yield {
                "net": net,
                "sparsity": sparsity,
                "layer": name,
                "weights": mask.numel(),
                "kept": int(mask.sum()),
                "outputs": len(mask),
                "empty_outputs": int((~mask.flatten(1).any(dim=1)).sum()),
                "step_length": round(lengths[name], 6),
            }


def summarise(done: Mapping[Cell, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give one row per net, sparsity and arm, means over the seeds."""
    groups: dict[tuple[str, float, str], list[Mapping[str, Any]]] = {}
    for cell, result in sorted(done.items(), key=lambda item: item[0].seed):
        groups.setdefault(cell[:3], []).append(result)
    rows = []
    for net, sparsity, arm in sorted(groups, key=_place):
        results = groups[net, sparsity, arm]
        curves = [[100 * value for value in result["validation_curve"]] for result in results]
        overlaps = [result["overlap_magnitude"] for result in results]
        shown = [epoch for epoch in SHOWN_EPOCHS if epoch <= len(curves[0])]
        rows.append(
            {
                "net": net,
                "sparsity": sparsity,
                "arm": arm,
                "best": interval([max(curve) for curve in curves]),
                "last_five": interval([statistics.mean(curve[-5:]) for curve in curves]),
                "after": {str(e): statistics.mean(curve[e - 1] for curve in curves) for e in shown},
                "overlap": {
                    "first": statistics.mean(overlap[0] for overlap in overlaps),
                    "last": statistics.mean(overlap[-1] for overlap in overlaps),
                },
            }
        )
    return rows


def _place(group: tuple[str, float, str]) -> tuple[int, float, int]:
    net, sparsity, arm = group
    return NETS_HERE.index(net), -sparsity, list(ARMS).index(arm)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write the rows as a table in Markdown."""
    epochs = list(rows[0]["after"])
    columns = ["net", "sparsity", "arm", "best", "last five", *(f"epoch {e}" for e in epochs)]
    lines = [f"| {' | '.join([*columns, 'overlap 1', 'overlap last'])} |"]
    lines.append(f"|{'---|' * (len(columns) + 2)}")
    for row in rows:
        figures = [row["best"]["mean"], row["last_five"]["mean"], *row["after"].values()]
        cells = [f"{row['net']} | {row['sparsity']:.0%} | {row['arm']}"]
        cells += [f"{figure:.1f}" for figure in figures]
        cells += [f"{share:.2f}" for share in row["overlap"].values()]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _stored(path: Path, settings: Settings) -> dict[Cell, dict[str, Any]]:
    """Read the cells that the same settings and the same arms gave."""
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text("utf-8"))
    if stored["settings"] != _plain(settings):
        return {}
    kept = {arm for arm, options in ARMS.items() if stored["arms"].get(arm) == options}
    return {
        Cell(c["net"], c["sparsity"], c["arm"], c["seed"]): c["result"]
        for c in stored["cells"]
        if c["arm"] in kept
    }


def _save(
    path: Path,
    done: Mapping[Cell, Mapping[str, Any]],
    settings: Settings,
    layers: Sequence[Mapping[str, Any]],
) -> None:
    write_json(
        path,
        {
            "study": "search ablation",
            "units": "best, last_five, after: validation accuracy in percent; curves in [0, 1]",
            "settings": _plain(settings),
            "arms": ARMS,
            "machine": machine(),
            "versions": versions(),
            "summary": summarise(done),
            "layers": layers,
            "cells": [{**cell._asdict(), "result": done[cell]} for cell in sorted(done)],
        },
    )


def _plain(settings: Settings) -> dict[str, Any]:
    return {
        "train_epochs": settings.train_epochs,
        "search_epochs": settings.search_epochs,
        "batch_size": settings.batch_size,
    }


if __name__ == "__main__":
    main()
