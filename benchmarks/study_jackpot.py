"""The statistical checks of the lottery jackpot (B1 to B6), winning or losing.

    python -m benchmarks.study_jackpot            # five seeds
    python -m benchmarks.study_jackpot --quick    # two seeds, few epochs, its own result file

Every finished cell is kept in the result file, so a study that was cut off goes on where it was.
All choices in a cell are made on the validation split; the figures are of the test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.jackpot_cells import EXPERIMENTS
from benchmarks.jackpot_cost import cost
from benchmarks.jackpot_nets import NETS, Settings, second_data_set
from benchmarks.jackpot_tables import print_tables, summarise, verdicts
from supertickets.files import write_json
from supertickets.machine import machine, usable_cores, versions

RESULTS = Path(__file__).resolve().parent / "results"
QUICK = Settings(train_epochs=4, search_epochs=4, image_epochs=2, sparsities=(0.9, 0.98))
CELL_CODE = ("jackpot_cells.py", "jackpot_cost.py", "jackpot_nets.py")
COST_NETS = ("digits", "resnet20x2")


class Cell(NamedTuple):
    """One experiment on one net with one seed."""

    experiment: str
    net: str
    seed: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells that are missing, store everything, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, help="number of seeds (default: 5; quick: 2)")
    parser.add_argument("--quick", action="store_true", help="a short look, not the study")
    parser.add_argument("--output", type=Path, help="result file (default: below results/)")
    given = parser.parse_args(arguments)
    seeds = given.seeds or (2 if given.quick else 5)
    settings = QUICK if given.quick else Settings()
    name = "study_jackpot_quick.json" if given.quick else "study_jackpot.json"
    study = Study(given.output or RESULTS / name, settings)
    study.run(wanted_cells(seeds))
    print_tables(study.summary())
    print(f"\nstored in {study.path}")


def wanted_cells(seeds: int) -> list[Cell]:
    """List the cells, the longest experiments first."""
    nets = {"compare": list(NETS), "restrict": ["digits", "mlp"], "control": ["digits", "mlp"]}
    if second_data_set():
        nets["images"] = ["digits-16"]
    else:
        print("images: skipped, neither Fashion-MNIST nor MNIST is on this machine")
    cells = [
        Cell(experiment, net, seed)
        for experiment, names in nets.items()
        for net in names
        for seed in range(seeds)
    ]
    return cells + [Cell("cost", net, 0) for net in COST_NETS]


class Study:
    """The cells of a study and the file that keeps them.

    Args:
        path: Result file; its cells are taken over if settings and code are the same.
        settings: What decides a cell besides its name.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self._settings = settings
        self._done: dict[Cell, dict[str, Any]] = {}
        if path.is_file():
            stored = json.loads(path.read_text("utf-8"))
            if stored.get("cells_sha256") == _digest(settings):
                self._done = {
                    Cell(c["experiment"], c["net"], c["seed"]): c for c in stored["cells"]
                }

    def run(self, wanted: Sequence[Cell]) -> None:
        """Run what is missing on every core, then the costs one by one; always one thread each."""
        missing = [cell for cell in wanted if cell not in self._done]
        print(f"{len(wanted)} cells, {len(wanted) - len(missing)} of them already done")
        self._run([c for c in missing if c.experiment != "cost"], usable_cores())
        for cell in missing:  # one process each: the memory of one must not hide another's
            if cell.experiment == "cost":
                self._run([cell], 1)

    def summary(self) -> dict[str, Any]:
        """Give means and intervals of all cells at hand."""
        cells: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for cell, stored in sorted(self._done.items()):
            cells[f"{cell.experiment}/{cell.net}"][cell.seed] = stored["result"]
        return summarise(cells, self._settings.sparsities)

    def _run(self, cells: Sequence[Cell], processes: int) -> None:
        if not cells:
            return
        spawn = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
        with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
            running = [pool.submit(_measure, cell, self._settings) for cell in cells]
            for future in as_completed(running):
                cell, seconds, result = future.result()
                self._done[cell] = {**cell._asdict(), "seconds": seconds, "result": result}
                self._save()
                print(f"{cell.experiment} {cell.net} seed {cell.seed}: {seconds:.1f} s", flush=True)

    def _save(self) -> None:
        summary = self.summary()
        write_json(
            self.path,
            {
                "study": "jackpot",
                "units": "accuracy in points of percent where so named, otherwise in [0, 1]",
                "second_data_set": second_data_set(),
                "settings": dataclasses.asdict(self._settings),
                "cells_sha256": _digest(self._settings),
                "machine": machine(),
                "versions": versions(),
                "commit": _commit(),
                "aims": verdicts(summary),
                "summary": summary,
                "cells": [self._done[cell] for cell in sorted(self._done)],
            },
        )


def _measure(cell: Cell, settings: Settings) -> tuple[Cell, float, dict[str, Any]]:
    torch.set_num_threads(1)
    started = time.perf_counter()
    experiments: dict[str, Callable[..., dict[str, Any]]] = {**EXPERIMENTS, "cost": cost}
    result = experiments[cell.experiment](cell.net, cell.seed, settings)
    return cell, round(time.perf_counter() - started, 2), result


def _digest(settings: Settings) -> str:
    """Hash the settings and the code of the cells, so that no two kinds of cell are mixed."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(settings), sort_keys=True).encode())
    for name in CELL_CODE:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=RESULTS.parent, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.decode().strip()


if __name__ == "__main__":
    main()
