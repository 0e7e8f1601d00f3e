"""What distillation from prioritized paths is worth: ranking, boards, final paths, costs.

    python -m benchmarks.study_cream --data ../shared/data                # about an hour of a core
    python -m benchmarks.study_cream --data ../shared/data --part replay  # seconds

The folder holds ``nasbench201.csv.gz``, for the replay; the images are the embedded digits. Every
finished run is kept as a line of a JSON file, so a study that was cut off goes on where it was, and
the result file is written anew after every part. All arms of a seed start from the same weights and
see the same batches and the same paths.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.cream_arms import ARMS, SHARED, SIZES, TRIES, Arm, run_arm
from benchmarks.cream_cost import measure_cost
from benchmarks.cream_figures import Truth, boards, final_paths, ranking, score_kinds
from benchmarks.cream_replay import Replay, replay
from benchmarks.cream_space import ALONE, study_space
from benchmarks.cream_truth import Rows, measure_truth
from benchmarks.harness import ROOT, commit
from supertickets.files import write_json
from supertickets.machine import machine, versions
from supertickets.rank import read_table

OUT = ROOT / "benchmarks" / "results" / "study_cream.json"
STORE = ROOT / "runs" / "study_cream.jsonl"
COLUMN = "c10_test_200e"
REPLAYS = {
    "2000 draws, never scored anew": Replay(),
    "2000 draws, scored anew every 100": Replay(rescore_every=100),
    "2000 draws, scored twice before the board takes them": Replay(confirm=True),
    "500 draws, scored twice before the board takes them": Replay(draws=500, confirm=True),
    "500 draws, never scored anew": Replay(draws=500),
    "500 draws, scored anew every 100": Replay(draws=500, rescore_every=100),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the table, for the part replay")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    parser.add_argument("--seeds", type=int, default=10, help="supernets of each arm")
    parser.add_argument("--few-seeds", type=int, default=3, help="the same for tries and sizes")
    parser.add_argument("--store", type=Path, default=STORE, help="the finished runs")
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    study = Study(given)
    for part in given.part or PARTS:
        print(part, flush=True)
        study.run(part)
    print(f"stored in {given.out}")


class Study:
    """The parts of the study and the file that keeps their figures."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self._rows = Rows(given.store)
        out: Path = given.out
        self._figures = json.loads(out.read_text("utf-8"))["figures"] if out.is_file() else {}

    def run(self, part: str) -> None:
        """Measure a part and store its figures."""
        self._figures |= getattr(self, part)()
        about = {
            "benchmark": "study_cream",
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
            "threads": 1,
            "alone": ALONE.model_dump(mode="json"),
            "shared": SHARED.model_dump(mode="json"),
        }
        write_json(self._given.out, {**about, "figures": self._figures})

    def replay(self) -> dict[str, Any]:
        """B7: the board's rules on NAS-Bench-201."""
        if self._given.data is None:
            raise SystemExit("the part replay needs --data")
        table = read_table(self._given.data / "nasbench201.csv.gz", [COLUMN])
        return {"replay": {name: replay(table, COLUMN, plan) for name, plan in REPLAYS.items()}}

    def truth(self) -> dict[str, Any]:
        """Every path on its own."""
        measure_truth(self._rows)
        return {"truth": self._truth().figures()}

    def arms(self) -> dict[str, Any]:
        """B1 to B5: ten supernets of each arm."""
        rows = self._arms("arm", ARMS, self._given.seeds)
        truth = self._truth()
        return {
            "ranking": ranking(truth, rows),
            "score_kinds": {
                arm: score_kinds(truth, [row for row in rows if row["arm"] == arm]) for arm in ARMS
            },
            "boards": boards(truth, rows),
            "final_paths": final_paths(truth, rows),
        }

    def tries(self) -> dict[str, Any]:
        """What else was tried, with few seeds."""
        return {"tries": self._few("try", TRIES)}

    def sizes(self) -> dict[str, Any]:
        """B6: sizes of the board, with few seeds."""
        return {"sizes": self._few("size", SIZES)}

    def cost(self) -> dict[str, Any]:
        """B8: what a step costs."""
        return {"cost": measure_cost()}

    def _few(self, kind: str, arms: Mapping[str, Arm]) -> dict[str, Any]:
        rows = self._arms(kind, arms, self._given.few_seeds)
        seeds = range(self._given.few_seeds)
        same = {"none", "board-top", "board-meta"}
        beside = [
            row for row in self._rows.of("arm") if row["arm"] in same and row["seed"] in seeds
        ]
        truth = self._truth()
        return {
            "ranking": ranking(truth, [*beside, *rows]),
            "boards": boards(truth, [*beside, *rows]),
        }

    def _arms(self, kind: str, arms: Mapping[str, Arm], seeds: int) -> list[dict[str, Any]]:
        done = {(row["arm"], row["seed"]) for row in self._rows.of(kind)}
        for seed in range(seeds):
            for name, arm in arms.items():
                if (name, seed) not in done:
                    self._rows.add(run_arm(kind, name, arm, seed))
                    print(f"  {name}, seed {seed}", flush=True)
        rows = [row for row in self._rows.of(kind) if row["arm"] in arms and row["seed"] < seeds]
        return sorted(rows, key=lambda row: (list(arms).index(row["arm"]), row["seed"]))

    def _truth(self) -> Truth:
        return Truth(study_space(), self._rows.of("truth"))


PARTS = ("replay", "truth", "arms", "tries", "sizes", "cost")


if __name__ == "__main__":
    main()
