"""The mask step of a jackpot search, as the search takes it: every layer of ResNet-50 is moved.

    python -m benchmarks.bench_mask_step --threads 2 --out benchmarks/results/mask_step.json

Each step has its own restriction; before it the scores are moved as a training step would.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks.harness import parser, timing_of, write_results
from benchmarks.networks import resnet50
from supertickets.prune import JackpotConfig, maskable_layers
from supertickets.prune.search import move_masks
from supertickets_ext import topk_mask
from supertickets_ext.nn import MaskedConv2d

DENSITY = 0.1
REPEATS = 30
QUICK_REPEATS = 7
MOVES = 0.05  # of a score's spread, between two steps


def searched_layers(generator: torch.Generator) -> dict[str, MaskedConv2d]:
    """Give masked layers of ResNet-50's shapes, with scores and their top-k masks."""
    layers = {}
    for name, layer in maskable_layers(resnet50()).items():
        shape = layer.weight.shape
        if len(shape) != 4:
            continue
        masked = MaskedConv2d(shape[1], shape[0], tuple(shape[2:]), bias=False)
        scores = torch.randn(shape, generator=generator)
        masked.scores = torch.nn.Parameter(scores)
        keep = int(DENSITY * scores.numel())
        masked.set_mask(topk_mask(scores, keep, by_magnitude=False))
        layers[name] = masked
    return layers


def step_row(kind: str, rate: float, repeats: int) -> dict[str, Any]:
    """Time steps of one restriction."""
    generator = torch.Generator().manual_seed(0)
    layers = searched_layers(generator)
    keep = {name: int(layer.mask.sum()) for name, layer in layers.items()}
    config = JackpotConfig(restriction="ratio" if rate < 1 else "none")
    samples = []
    for _ in range(repeats + 3):
        for layer in layers.values():
            noise = torch.randn(layer.weight.shape, generator=generator)
            layer.scores.data.add_(noise, alpha=MOVES)
        start = time.perf_counter()
        move_masks(layers, keep, config, rate)
        samples.append((time.perf_counter() - start) * 1e6)
    timing = timing_of(samples[3:])
    weights = sum(layer.weight.numel() for layer in layers.values())
    print(
        f"{kind:<10}{len(layers)} layers, {weights} weights: {timing.median_us:.0f} us a step, "
        f"spread {timing.spread:.0%}",
        flush=True,
    )
    return {
        "restriction": kind, "rate": rate, "layers": len(layers), "weights": weights,
        "timings": {"step": timing},
    }  # fmt: skip


def main() -> None:
    """Time a free and a restricted step."""
    arguments = parser((__doc__ or "").splitlines()[0]).parse_args()
    torch.set_num_threads(arguments.threads)
    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    rows = [step_row("none", 1.0, repeats), step_row("ratio", 0.5, repeats)]
    median = statistics.mean(row["timings"]["step"].median_us for row in rows)
    if arguments.out:
        write_results(arguments.out, "mask_step", rows, {"mean_step_us": median})


if __name__ == "__main__":
    main()
