"""The truth of the distillation study: every path trained alone, three times."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from benchmarks.cream_space import ALONE, study_data, study_space
from supertickets.evaluate import classification
from supertickets.seeds import generator
from supertickets.training import train

RUNS = 3


class Rows:
    """Finished runs, one JSON line each; a line that was cut off is done again.

    Args:
        file: Created with its folder; appended to.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        self.rows = [row for row in map(_parse, lines) if row is not None]

    def add(self, row: dict[str, Any]) -> None:
        """Keep one finished run."""
        self.rows.append(row)
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write("\n" + json.dumps(row) + "\n")  # apart from a line that was cut off

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Give the rows of one kind."""
        return [row for row in self.rows if row["kind"] == kind]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def measure_truth(rows: Rows) -> None:
    """Train what has not been trained yet; all paths once, then all again."""
    space, data = study_space(), study_data()
    done = {(tuple(row["path"]), row["seed"]) for row in rows.of("truth")}
    test = data.loader("test", batch_size=1000)
    for seed, path in itertools.product(range(RUNS), space.paths()):
        if (path, seed) in done:
            continue
        model = space.network(path, generator(seed, "alone", *path))
        loader = data.loader("train", batch_size=ALONE.batch_size, seed=seed)
        result = train(model, loader, ALONE, seed=seed, progress=False)
        found = classification(model, test)
        rows.add(
            {
                "kind": "truth",
                "path": list(path),
                "seed": seed,
                "accuracy": found.accuracy,
                "loss": found.loss,
                "seconds": round(result.wall_s, 3),
            }
        )
