"""Counting patterns and their distances, beside the published product and what users take.

python -m benchmarks.bench_activation_patterns --threads 1 --out FILE
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import QUICK_REPEATS, REPEATS, compare, parser, write_results
from supertickets_ext import count_patterns, hamming_gram, pack_signs

SAMPLES, NEURONS = 2000, 8192


def published(signs: Tensor) -> int:
    """TE-NAS: Hamming distances by a product of 0/1 matrices, in float32."""
    one_way = signs @ (1 - signs).T
    same = (one_way + one_way.T) == 0
    return round(float((1 / same.sum(1).double()).sum()))


def packbits_set(signs: Tensor) -> int:
    return len({row.tobytes() for row in np.packbits(signs.numpy() > 0, axis=1)})


def naswot(signs: Tensor) -> Tensor:
    """NASWOT: number of equal bits, by two products."""
    return signs @ signs.T + (1 - signs) @ (1 - signs).T


def tasks(signs: Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    """Contenders by task; "of bits" starts from packed rows, as a network leaves them."""
    patterns = pack_signs(signs)
    packed = np.packbits(signs.numpy() > 0, axis=1)
    if not count_patterns(patterns, warn=False) == published(signs) == packbits_set(signs):
        raise SystemExit("count_patterns is wrong")
    if not torch.equal(NEURONS - hamming_gram(patterns), naswot(signs).int()):
        raise SystemExit("hamming_gram is wrong")
    return {
        "count, of bits": {
            "ours": lambda: count_patterns(patterns, warn=False),
            "set of bytes": lambda: len({row.tobytes() for row in packed}),
            "torch.unique": lambda: len(torch.unique(patterns, dim=0)),
        },
        "count, of floats": {
            "ours": lambda: count_patterns(pack_signs(signs), warn=False),
            "packbits + set": lambda: packbits_set(signs),
            "published product": lambda: published(signs),
        },
        "Hamming, of bits": {
            "ours": lambda: hamming_gram(patterns),
            "NASWOT products": lambda: naswot(signs),
        },
    }


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0]).parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    signs = (torch.rand(SAMPLES, NEURONS, generator=generator) < 0.5).float()
    signs[SAMPLES // 2 :: 2] = signs[: SAMPLES // 4]  # repeated rows
    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    rows: list[dict[str, Any]] = []
    for task, contenders in tasks(signs).items():
        timing = compare(contenders, repeats=repeats)
        speedups = {n: t.median_us / timing["ours"].median_us for n, t in timing.items()}
        rows.append({"task": task, "samples": SAMPLES, "neurons": NEURONS, "timings": timing,
                     "speedups": speedups})  # fmt: skip
        for name, t in timing.items():
            print(f"{task:<18}{name:<20}{t.median_us:>10.0f} us  spread {t.spread:.0%}"
                  f"  {speedups[name]:.1f}x", flush=True)  # fmt: skip
    if arguments.out:
        write_results(arguments.out, "activation_patterns", rows, {})


if __name__ == "__main__":
    main()
