"""What cards allow: occupancy against NVIDIA's calculator, and the stored figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cuda_limits import CARDS, estimates, occupancy
from benchmarks.cuda_static import ROOT, TARGETS

# Target, threads, registers, shared bytes; blocks and bound by cuda_occupancy.h of CUDA 13.0.
KNOWN = [
    ((80, 256, 32, 0), 8, "threads"),
    ((80, 256, 33, 0), 6, "registers"),  # 40 registers after rounding: 1280 for each warp
    ((80, 256, 64, 0), 4, "registers"),
    ((80, 32, 16, 0), 32, "blocks"),
    ((80, 1024, 64, 0), 1, "registers"),
    ((86, 256, 40, 0), 6, "threads"),
    ((86, 128, 16, 48 << 10), 2, "shared"),
    ((90, 256, 96, 5120), 2, "registers"),
    ((90, 64, 32, 32 << 10), 6, "shared"),
    ((120, 32, 16, 0), 24, "blocks"),
]


@pytest.mark.parametrize(("kernel", "blocks", "bound"), KNOWN)
def test_occupancy(kernel: tuple[int, int, int, int], blocks: int, bound: str) -> None:
    found = occupancy(*kernel)
    assert found["blocks"] == blocks
    assert found["bound"] == bound
    threads = {80: 2048, 86: 1536, 90: 2048, 120: 1536}[kernel[0]]
    assert found["occupancy"] == pytest.approx(blocks * kernel[1] / threads)


def test_every_target_has_a_card() -> None:
    assert {card.target for card in CARDS} == set(TARGETS)


def test_estimates_follow_the_data_sheet() -> None:
    rows = {(r["operator"], r["card"]): r for r in estimates()}
    row = rows["topk_mask", "A100 SXM 80 GB"]
    assert row["bound"] == "memory"
    assert row["least_us"] == pytest.approx(25_502_912 * 21 / 2039e9 * 1e6, rel=1e-3)


def test_stored_figures_are_of_every_kernel_file() -> None:
    stored = json.loads((ROOT / "benchmarks/results/cuda_static.json").read_text())
    assert stored["run_on_gpu"] is False
    sources = {path.name for path in Path(ROOT / "csrc/cuda").glob("*.cu")}
    for target in TARGETS:
        assert {k["file"] for k in stored["kernels"] if k["target"] == target} == sources
    assert not any(k["local_bytes"] or k["spill_bytes"] for k in stored["kernels"])
