"""The table that ``sparsify`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from supertickets_ext._sparsify_measure import GAIN, Call
from supertickets_ext._sparsify_trace import is_sparse
from supertickets_ext._structure import mask_structure
from supertickets_ext._tables import aligned


@dataclass(frozen=True)
class SparsifyRow:
    """One convolution: what was chosen for it, and why."""

    layer: str
    x_size: tuple[int, ...]
    weight_size: tuple[int, ...]
    density: float
    structure: str
    route: str
    dense_us: float | None
    sparse_us: float | None
    why: str


class SparsifyTable(list[SparsifyRow]):
    """The rows of a sparsified model, and the times of the whole; printing it gives a table."""

    times_us: Mapping[str, float] = {}
    """Microseconds per call of the whole model: ``"before"``, ``"dense"`` (fused, channels_last),
    ``"sparse"`` and ``"now"``, as far as they were measured."""

    def __str__(self) -> str:
        if not self:
            return "no convolution was found"
        lines = [
            ("layer", "input", "weight", "density", "structure", "dense us", "sparse us",
             "route", "why"),
        ]  # fmt: skip
        lines += [
            (
                row.layer,
                "x".join(map(str, row.x_size)) or "-",
                "x".join(map(str, row.weight_size)),
                f"{row.density:.3f}",
                row.structure,
                "-" if row.dense_us is None else f"{row.dense_us:.0f}",
                "-" if row.sparse_us is None else f"{row.sparse_us:.0f}",
                row.route,
                row.why,
            )
            for row in self
        ]
        return f"{aligned(lines)}\n{self._summary()}"

    def _summary(self) -> str:
        names = {"before": "before", "dense": "dense and fused", "now": "now"}
        times = [
            f"{self.times_us[key] / 1e3:.2f} ms {text}"
            for key, text in names.items()
            if key in self.times_us
        ]
        whole = ", ".join(times) if times else "as it was, nothing in it is pruned enough"
        return f"whole model: {whole} ({torch.get_num_threads()} threads)"


def row_of(layer: str, call: Call, sparse_wins: bool) -> SparsifyRow:
    """Describe a measured convolution.

    Args:
        layer: Its name.
        call: Its times and side.
        sparse_wins: Whether the graph with sparse routes was taken.

    Returns:
        The row.
    """
    unit = call.unit
    assert unit is not None
    route = unit.best[call.in_a].route if sparse_wins else "dense"
    gain = unit.dense_us / unit.sparse_us
    if not route.startswith("dense"):
        why = f"{gain:.2f}x as fast as dense"
        if gain < 1:
            why += ", and saves converting the layout"
    elif gain < GAIN:
        why = "dense is as fast" if gain > 1 / GAIN else f"sparse is {1 / gain:.2f}x as slow"
    elif sparse_wins:
        why = "converting the layout costs more than it gains"
    else:
        why = "the whole model does not gain"
    return SparsifyRow(
        layer,
        unit.x_size,
        unit.weight_size,
        unit.structure.density,
        str(unit.structure),
        route,
        unit.dense_us,
        unit.sparse_us,
        why,
    )


def unmeasured_row(layer: str, conv: nn.Conv2d) -> SparsifyRow:
    """Describe a convolution that is left alone."""
    structure = mask_structure(conv.weight.detach() != 0, conv.groups)
    why = "it could not be replaced" if is_sparse(conv) else "not pruned, and not measured"
    size = tuple(conv.weight.shape)
    return SparsifyRow(layer, (), size, structure.density, str(structure), "dense", None, None, why)
