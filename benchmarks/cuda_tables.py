"""Tables of what nvcc says of the CUDA kernels, and what that lets expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cuda_estimates(stored: Mapping[str, Any]) -> str:
    """The least time that each card allows for a call."""
    rows = stored["estimates_not_run"]
    cards = list(dict.fromkeys(row["card"] for row in rows))
    lines = [f"| estimated, not run | {' | '.join(cards)} |", f"|{'---|' * (len(cards) + 1)}"]
    calls = dict.fromkeys((row["operator"], row["size"]) for row in rows)
    for operator, size in calls:
        found = {r["card"]: r for r in rows if (r["operator"], r["size"]) == (operator, size)}
        cells = (f"{found[c]['least_us']:.0f}, {found[c]['bound']}" for c in cards)
        lines.append(f"| `{operator}`, {size} | {' | '.join(cells)} |")
    lines += [
        "",
        "Microseconds that a call takes at least, and what bounds it: bytes over the bandwidth of "
        "memory or of the first caches, or operations over the float32 peak, by the cards' data "
        "sheets. **No kernel was run on any of them.** From `benchmarks/results/cuda_static.json` "
        "(`make cuda-check`).",
    ]
    return "\n".join(lines) + "\n"


def cuda_kernels(stored: Mapping[str, Any]) -> str:
    """Registers, occupancy and wide loads of the kernels in each file, over all targets."""
    files: dict[str, list[Mapping[str, Any]]] = {}
    for kernel in stored["kernels"]:
        files.setdefault(kernel["file"], []).append(kernel)
    lines = [
        "| file | kernels | registers | shared memory | threads that fit | 128-bit loads |",
        f"|{'---|' * 6}",
    ]
    for file, kernels in files.items():
        loads = sum(k.get("global_loads", 0) for k in kernels)
        wide = sum(k.get("global_loads_128", 0) for k in kernels)
        occupancies = [k["occupancy"] for k in kernels]
        least, most = f"{min(occupancies):.0%}", f"{max(occupancies):.0%}"
        cells = (
            f"`{file}`",
            str(len({k["kernel"] for k in kernels if k["target"] == kernels[0]["target"]})),
            f"at most {max(k['registers'] for k in kernels)}",
            f"at most {max(k['shared_bytes'] for k in kernels):,} bytes",
            least if least == most else f"{least} to {most}",
            f"{wide / loads:.0%} of {loads}" if loads else "not read",
        )
        lines.append(f"| {' | '.join(cells)} |")
    targets = sorted({k["target"] for k in stored["kernels"]})
    spilling = sum(k["spill_bytes"] > 0 or k["local_bytes"] > 0 for k in stored["kernels"])
    lines += [
        "",
        f"Compiled for sm_{', sm_'.join(map(str, targets))}; {spilling or 'none'} of the kernels "
        "uses local memory. Threads that fit are the "
        "share of a multiprocessor's threads that its registers, shared memory and blocks leave "
        "room for; loads are instructions in the machine code, not how often they run.",
    ]
    return "\n".join(lines) + "\n"
