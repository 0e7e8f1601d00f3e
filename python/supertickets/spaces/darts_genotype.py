"""Genotypes of the DARTS space: reading and writing them as the field does."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import Any

from supertickets.errors import InputError, did_you_mean

CELLS = ("normal", "reduce")
NODES = (2, 3, 4, 5)
OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)

Inputs = tuple[tuple[str, int], ...]

_FORM = "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], ...)"


@dataclass(frozen=True)
class Genotype:
    """Two inputs, each with its operation, for the nodes 2 to 5 of both cells.

    Attributes:
        normal: Eight pairs of operation and source; the first two belong to node 2, and so on.
        reduce: The same for the reduction cell.
    """

    normal: Inputs
    reduce: Inputs

    def __post_init__(self) -> None:
        for cell in CELLS:
            _check_inputs(cell, getattr(self, cell))

    def __str__(self) -> str:
        normal, reduce = list(self.normal), list(self.reduce)
        return (
            f"Genotype(normal={normal}, normal_concat=range(2, 6), "
            f"reduce={reduce}, reduce_concat=range(2, 6))"
        )

    def to_json(self) -> dict[str, Any]:
        """Give plain values; :func:`parse_genotype` reads their JSON."""
        concat = list(NODES)
        return {
            "normal": [list(pair) for pair in self.normal],
            "normal_concat": concat,
            "reduce": [list(pair) for pair in self.reduce],
            "reduce_concat": concat,
        }


def parse_genotype(text: str) -> Genotype:
    """Read a genotype; nothing of the text is executed.

    Args:
        text: ``Genotype(normal=[...], normal_concat=..., reduce=[...], reduce_concat=...)`` as
            DARTS prints it, or a JSON object with these keys.

    Returns:
        The genotype.

    Raises:
        InputError: Another form, or something outside the space.
    """
    text = text.strip()
    try:
        fields = json.loads(text) if text.startswith("{") else _call_fields(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise InputError(f"darts: expected {_FORM}, got {text[:200]!r}") from error
    for key in fields:
        if key not in _KEYS:
            raise InputError(f"darts: a genotype has no {key!r}{did_you_mean(key, _KEYS)}")
    for cell in CELLS:
        if cell not in fields:
            raise InputError(f"darts: the genotype lacks {cell!r}; expected {_FORM}")
        concat = fields.get(f"{cell}_concat", NODES)
        if not isinstance(concat, (list, tuple, range)) or sorted(concat) != list(NODES):
            raise InputError(f"darts: {cell}_concat must be the nodes 2 to 5, got {concat!r}")
    return Genotype(normal=_pairs("normal", fields), reduce=_pairs("reduce", fields))


_KEYS = tuple(key for cell in CELLS for key in (cell, f"{cell}_concat"))


def _call_fields(text: str) -> dict[str, Any]:
    call = ast.parse(text, mode="eval").body
    if not isinstance(call, ast.Call) or getattr(call.func, "id", None) != "Genotype":
        raise ValueError("not a call of Genotype")
    named = dict(zip(_KEYS, call.args, strict=False))
    named |= {keyword.arg or "**": keyword.value for keyword in call.keywords}
    return {key: _literal(value) for key, value in named.items()}


def _literal(node: ast.expr) -> Any:
    """Evaluate a literal, or ``range`` (and ``list`` of it) of literals."""
    if isinstance(node, ast.Call) and len(node.args) in (1, 2) and not node.keywords:
        name = getattr(node.func, "id", None)
        values = [_literal(argument) for argument in node.args]
        if name == "list" and len(values) == 1:
            return list(values[0])
        if name == "range" and all(isinstance(v, int) and 0 <= v < 100 for v in values):
            return list(range(*values))
    return ast.literal_eval(node)


def _pairs(cell: str, fields: dict[str, Any]) -> Inputs:
    pairs = fields[cell]
    ok = isinstance(pairs, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    )
    if not ok:
        raise InputError(f"darts: {cell} must be pairs of operation and source, got {pairs!r}")
    return tuple((operation, source) for operation, source in pairs)


def _check_inputs(cell: str, inputs: Inputs) -> None:
    if len(inputs) != 2 * len(NODES):
        raise InputError(f"darts: {cell} has two inputs a node, 8 in all, got {len(inputs)}")
    for index, (operation, source) in enumerate(inputs):
        node = NODES[index // 2]
        if operation not in OPERATIONS[1:]:
            raise InputError(
                f"darts: no operation {operation!r} in a genotype"
                f"{did_you_mean(str(operation), OPERATIONS[1:])}"
            )
        if type(source) is not int or not 0 <= source < node:
            raise InputError(f"darts: node {node} of {cell} reads the nodes 0 to {node - 1}, "
                             f"got {source!r}")  # fmt: skip
        if index % 2 and source == inputs[index - 1][1]:
            raise InputError(f"darts: the two inputs of node {node} of {cell} are both {source}")


def _short(text: str) -> Inputs:
    """Read ``"dil3-0 sep5-1"``."""
    long = {"sep": "sep_conv", "dil": "dil_conv", "max": "max_pool", "avg": "avg_pool"}
    pairs = []
    for word in text.split():
        operation, _, source = word.rpartition("-")
        size = operation[-1]
        name = "skip_connect" if operation == "skip" else f"{long[operation[:-1]]}_{size}x{size}"
        pairs.append((name, int(source)))
    return tuple(pairs)


GENOTYPES = {
    # found by TE-NAS on CIFAR-10 and on ImageNet (arXiv 2102.11535)
    "tenas_cifar10": Genotype(
        normal=_short("dil3-0 sep5-1 sep3-0 sep3-2 skip-0 dil5-1 sep3-1 sep5-3"),
        reduce=_short("sep5-0 sep5-1 sep5-1 sep5-2 sep3-1 sep3-3 sep5-2 sep3-4"),
    ),
    "tenas_imagenet": Genotype(
        normal=_short("sep3-0 skip-1 dil5-1 sep3-2 sep3-0 dil5-3 sep3-0 dil3-4"),
        reduce=_short("dil3-0 sep5-1 dil3-0 sep3-2 sep3-0 dil3-1 sep3-0 sep5-4"),
    ),
    # DARTS, second order (arXiv 1806.09055)
    "darts_v2": Genotype(
        normal=_short("sep3-0 sep3-1 sep3-0 sep3-1 sep3-1 skip-0 skip-0 dil3-2"),
        reduce=_short("max3-0 max3-1 skip-2 max3-1 max3-0 skip-2 skip-2 max3-1"),
    ),
}
"""Genotypes that have a name."""
