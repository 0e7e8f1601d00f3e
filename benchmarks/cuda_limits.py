"""What cards allow: blocks of a kernel on a multiprocessor, and the least time of a launch.

Nothing here was run on a GPU. Times are lower bounds: bytes over the bandwidth of memory or of the
first cache, operations over the arithmetic peak, whichever is longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_REGISTERS = 65_536  # of a multiprocessor, on every target
_REGISTER_UNIT = 256  # that a warp's registers are rounded up to
_WARP_UNIT = 4  # warps whose registers are given out together
_SHARED_RESERVED = 1024  # bytes of each block, for the system
_SHARED_UNIT = 128

# Of a multiprocessor: threads, blocks, bytes of shared memory. CUDA C++ Programming Guide 13.0,
# table "Technical Specifications per Compute Capability".
_LIMITS = {
    80: (2048, 32, 164 << 10),
    86: (1536, 16, 100 << 10),
    89: (1536, 24, 100 << 10),
    90: (2048, 32, 228 << 10),
    100: (2048, 32, 228 << 10),
    120: (1536, 24, 100 << 10),
}


def occupancy(target: int, threads: int, registers: int, shared_bytes: int) -> dict[str, Any]:
    """Blocks of a kernel that fit a multiprocessor, and the share of its threads that they are.

    Args:
        target: Such as 90 for sm_90.
        threads: Of a block.
        registers: Of a thread.
        shared_bytes: Of a block.

    Returns:
        ``blocks``, ``occupancy`` and what ``bound`` them: threads, blocks, registers or shared.
    """
    most_threads, most_blocks, shared = _LIMITS[target]
    warps = -(-threads // 32)
    of_warp = -(-registers * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
    fitting = _REGISTERS // of_warp // _WARP_UNIT * _WARP_UNIT
    of_block = -(-(shared_bytes + _SHARED_RESERVED) // _SHARED_UNIT) * _SHARED_UNIT
    bounds = {
        "threads": most_threads // (32 * warps),
        "blocks": most_blocks,
        "registers": fitting // warps,
        "shared": shared // of_block,
    }
    bound = min(bounds, key=lambda name: bounds[name])
    blocks = bounds[bound]
    return {"blocks": blocks, "occupancy": blocks * 32 * warps / most_threads, "bound": bound}


@dataclass(frozen=True)
class Card:
    """Peaks by its data sheet; float32 without tensor cores."""

    name: str
    target: int
    teraflops: float
    gigabytes_per_s: float
    lanes: int  # float32 multiply-adds of a multiprocessor and cycle

    @property
    def cache_gigabytes_per_s(self) -> float:
        """First caches: 128 bytes a multiprocessor and cycle."""
        return self.teraflops * 1e3 / (2 * self.lanes) * 128


CARDS = (
    Card("A100 SXM 80 GB", 80, 19.5, 2039, 64),
    Card("RTX 3090", 86, 35.6, 936, 128),
    Card("RTX 4090", 89, 82.6, 1008, 128),
    Card("H100 SXM", 90, 66.9, 3352, 128),
    Card("B200", 100, 80.0, 8000, 128),
    Card("RTX 5090", 120, 104.8, 1792, 128),
)


@dataclass(frozen=True)
class Work:
    """What one call of an operator must at least move and compute."""

    operator: str
    size: str
    memory_bytes: int
    cache_bytes: int
    operations: int

    def least_us(self, card: Card) -> tuple[float, str]:
        """Microseconds on a card, and what takes them."""
        times = {
            "memory": self.memory_bytes / card.gigabytes_per_s / 1e3,
            "cache": self.cache_bytes / card.cache_gigabytes_per_s / 1e3,
            "arithmetic": self.operations / card.teraflops / 1e6,
        }
        bound = max(times, key=lambda name: times[name])
        return times[bound], bound


def works() -> list[Work]:
    """Calls of the sizes that the CPU benchmarks use."""
    result = []
    scores = 25_502_912  # ResNet-50; five passes over float32 scores, a byte of mask each
    result.append(Work("topk_mask", f"{scores:,} scores", scores * 21, 0, 0))
    result.append(Work("update_topk_mask_", f"{scores:,} scores", scores * 22, 0, 0))
    for channels, side in ((64, 56), (128, 28), (256, 14), (512, 7)):
        result += _convolutions(32, channels, side, 0.1)
    rows, columns = 64, 1_280_000
    pairs = rows * (rows + 1) // 2
    result.append(
        Work("jacobian_gram_", f"{rows} x {columns:,}", rows * columns * 4, 0, 2 * pairs * columns)
    )
    samples, bits = 2000, 8192
    words = samples * bits // 8
    result.append(Work("pack_signs_", f"{samples} x {bits}", samples * bits * 4 + words, 0, 0))
    tiles = (samples // 64 + 1) * (samples // 64 + 2) // 2
    result.append(
        Work(
            "hamming_gram",
            f"{samples} x {bits}",
            words + samples**2 * 4,
            tiles * 128 * bits // 8,
            0,
        )
    )
    return result


def _convolutions(batch: int, channels: int, side: int, density: float) -> list[Work]:
    pixels, weights = batch * side * side, channels * channels * 9
    kept = round(density * weights)
    maps, taps = 2 * pixels * channels * 4, kept * 8
    size = f"{batch} x {channels} x {side} x {side}, 3x3, {1 - density:.0%} sparse, in lanes"
    products = kept * pixels
    mask_and_weight = weights * 5
    return [
        Work("masked_conv2d", size, maps + taps + mask_and_weight, products * 4, 2 * products),
        Work(
            "masked_conv2d_grad_weight",
            size,
            maps + weights * 5,
            products * 4 * 9 // 8,  # eight taps share what they read of the output's gradient
            2 * products,
        ),
    ]


def estimates() -> list[dict[str, Any]]:
    """Every call on every card."""
    rows = []
    for work in works():
        for card in CARDS:
            least, bound = work.least_us(card)
            rows.append(
                {
                    "operator": work.operator,
                    "size": work.size,
                    "memory_bytes": work.memory_bytes,
                    "cache_bytes": work.cache_bytes,
                    "operations": work.operations,
                    "card": card.name,
                    "target": card.target,
                    "least_us": round(least, 1),
                    "bound": bound,
                }
            )
    return rows
