"""A run folder as a finished run of the digits recipe leaves it, and a parser for its page."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

from supertickets.report import write_report

TEST_COUNT = 360
SHAPES = {
    "conv1": [32, 1, 3, 3],
    "conv2": [64, 32, 3, 3],
    "conv3": [64, 64, 3, 3],
    "conv4": [128, 64, 3, 3],
    "classifier": [10, 128],
}
PIXELS = {"conv1": 64, "conv2": 64, "conv3": 16, "conv4": 16, "classifier": 1}
RATES = {
    0.8: (0.35, 0.74, 0.80, 0.83, 0.0),
    0.9: (0.48, 0.86, 0.90, 0.92, 0.0),
    0.95: (0.58, 0.93, 0.95, 0.97, 0.0),
    0.98: (0.70, 0.972, 0.981, 0.99, 0.0),
}
CORRECT = {  # of TEST_COUNT
    "jackpot": {0.8: 354, 0.9: 352, 0.95: 347, 0.98: 322},
    "random-start": {0.8: 353, 0.9: 349, 0.95: 345, 0.98: 309},
    "magnitude-bn": {0.8: 348, 0.9: 324, 0.95: 262, 0.98: 118},
    "magnitude": {0.8: 312, 0.9: 209, 0.95: 71, 0.98: 40},
    "random": {0.8: 52, 0.9: 36, 0.95: 34, 0.98: 35},
}


def stage(name: str, kind: str, figures: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "stage": name,
        "kind": kind,
        "status": "done",
        "inputs": {"train": "5f0c"},
        "config": {"epochs": 12, "lr": 0.1},
        "seed": 0,
        "versions": {"python": "3.11.2", "torch": "2.13.0+cpu", "supertickets": "0.1.0"},
        "device": "cpu",
        "machine": {"cpu": "Xeon", "cores": 2, "threads": 2, "instruction_set": "avx512"},
        "started": "2026-01-05T10:00:00+00:00",
        "wall_s": 21.5,
        "peak_memory_bytes": 412_000_000,
        "figures": figures,
        **more,
    }


def history(start: float, end: float, swaps: int, epochs: int = 12) -> list[dict[str, float]]:
    epochs_of = []
    for epoch in range(epochs):
        left = math.exp(-0.5 * epoch)
        restriction = (1 - epoch / epochs) ** 4
        epochs_of.append(
            {
                "epoch": epoch + 1,
                "loss": 0.05 + 3 * (1 - end) + 1.8 * left * (1 - start),
                "validation_accuracy": end - (end - start) * left,
                "swaps": round(swaps * left * restriction) + 40,
                "wanted": round(swaps * left) + 220,
                "restriction": restriction,
                "seconds": 1.4 + 0.01 * epoch,
            }
        )
    return epochs_of


def jackpot_figures(sparsity: float) -> dict[str, Any]:
    layers, total, kept_total, macs, effective = [], 0, 0, 0, 0
    for (name, shape), rate in zip(SHAPES.items(), RATES[sparsity], strict=True):
        weights = math.prod(shape)
        kept = weights - math.floor(rate * weights)
        density = kept / weights
        layers.append(
            {
                "name": name,
                "shape": shape,
                "weights": weights,
                "kept": kept,
                "density": density,
                "macs": weights * PIXELS[name],
                "effective_macs": kept * PIXELS[name],
                "overlap_magnitude": min(1.0, density + 0.55 * math.sqrt(density)),
                "overlap_expected": density,
            }
        )
        total, kept_total = total + weights, kept_total + kept
        macs, effective = macs + weights * PIXELS[name], effective + kept * PIXELS[name]
    density = kept_total / total
    dense = {
        "name": "dense",
        "validation_accuracy": 0.9852,
        "test_accuracy": 355 / TEST_COUNT,
        "density": 1.0,
        "effective_macs": macs,
        "retrained": False,
        "epochs": 30,
    }
    searched = {
        name: {
            "name": name,
            "validation_accuracy": correct[sparsity] / TEST_COUNT - 0.002,
            "test_accuracy": correct[sparsity] / TEST_COUNT,
            "density": density,
            "effective_macs": effective,
            "retrained": False,
            "epochs": 12 if name in {"jackpot", "random-start"} else 0,
        }
        for name, correct in CORRECT.items()
    }
    good = CORRECT["jackpot"][sparsity] / TEST_COUNT
    return {
        "sparsity": sparsity,
        "density": density,
        "macs": macs,
        "effective_macs": effective,
        "uniform_macs": round(macs * density),
        "dense_bytes": 4 * total + 3200,
        "ticket_bytes": 4 * kept_total + total // 8 + 4200,
        "rows": [dense, *searched.values()],
        "history": history(good - 0.25 * sparsity**4, good, round(24000 * (1 - sparsity))),
        "history_random_start": history(0.15, good - 0.01, round(90000 * (1 - sparsity))),
        "layers": layers,
        "overlap_magnitude": 0.66 if sparsity == 0.9 else 0.4,
        "overlap_expected": density,
    }


def write_stage(folder: Path, content: dict[str, Any]) -> Path:
    file = folder / str(content["stage"]) / "stage.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def make_run(folder: Path) -> Path:
    """Write a run folder as a finished run of the digits recipe leaves it."""
    folder.mkdir(parents=True)
    recipe = {"name": "digits", "seed": 0, "jackpot": {"sparsities": list(RATES), "epochs": 12}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    trained = {
        "history": [{"epoch": e, "loss": 2.3 / (e + 1), "lr": 0.1} for e in range(30)],
        "validation_accuracy": 0.9852,
        "test_accuracy": 355 / TEST_COUNT,
        "test_count": TEST_COUNT,
        "parameters": 131000,
        "macs": 1_000_000,
        "bytes": 520_000,
    }
    write_stage(folder, stage("train", "train", trained, started="2026-01-05T09:59:00+00:00"))
    for index, sparsity in enumerate(RATES):
        name = f"jackpot-{round(100 * sparsity)}"
        started = f"2026-01-05T10:0{index}:00+00:00"
        write_stage(folder, stage(name, "jackpot", jackpot_figures(sparsity), started=started))
    files = [
        {"format": "state-dict", "path": "model.safetensors", "bytes": 52e4, "max_abs_error": 0},
        {"format": "torch.export", "path": "model.pt2", "bytes": 531_000, "max_abs_error": 0.0},
        {"format": "onnx", "path": "model.onnx", "bytes": 524_000, "max_abs_error": 3.8e-6},
    ]
    last = "2026-01-05T10:06:00+00:00"
    write_stage(folder, stage("export", "export", {"files": files}, started=last))
    rows = [
        {
            "stage": f"jackpot-{round(100 * sparsity)}",
            "test_accuracy": CORRECT["jackpot"][sparsity] / TEST_COUNT,
            "same_as_recorded": True,
            "density": 1 - sparsity,
            "effective_macs": 4_000_000,
            "median_us": 812.5,
            "dense_median_us": 1620.0 if sparsity > 0.85 else 700.0,
        }
        for sparsity in RATES
    ]
    write_stage(
        folder, stage("evaluate", "evaluate", {"rows": rows}, started="2026-01-05T10:07:00.250Z")
    )
    return folder


def read(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def edit(folder: Path, name: str, **changes: Any) -> None:
    """Change figures of one stage in place."""
    file = folder / name / "stage.json"
    content = json.loads(file.read_text())
    content["figures"].update(changes)
    file.write_text(json.dumps(content))


def set_accuracy(folder: Path, sparsity: float, row: str, value: float) -> None:
    figures = jackpot_figures(sparsity)
    for one in figures["rows"]:
        if one["name"] == row:
            one["test_accuracy"] = one["validation_accuracy"] = value
    edit(folder, f"jackpot-{round(100 * sparsity)}", rows=figures["rows"])


class Outline(HTMLParser):
    """Collects what the tests ask for, and checks that every element is closed."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.references: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.headline = ""
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words.append(data)
        if "h1" in self.open:
            self.headline += data

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            self.attributes.append((tag, key, value))
            if key == "id":
                self.ids[str(value)] += 1
            if key in {"aria-labelledby", "aria-describedby"}:
                self.references += str(value).split()
            if key == "href" and str(value).startswith("#"):
                self.references.append(str(value)[1:])


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def words(page: str) -> str:
    return re.sub(r"\s+", " ", "".join(outline(page).words))
