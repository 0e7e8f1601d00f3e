"""Scenes of discs, squares and crosses, and the average precision of boxes found in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = 64  # pixels of a scene's side
CLASSES = ("disc", "square", "cross")
_MOST = 3  # objects in a scene
_IOU = 0.5


@dataclass(frozen=True)
class Scene:
    """An image with what is in it.

    Attributes:
        image: ``[3, SIZE, SIZE]``, about zero mean.
        boxes: ``[objects, 4]``, centre x, centre y, width, height in pixels.
        labels: ``[objects]``, indices of :data:`CLASSES`.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor


def scene(generator: torch.Generator) -> Scene:
    """Draw noise with one to three objects of random colour, size and place; they may overlap."""
    image = 0.3 * torch.randn(3, SIZE, SIZE, generator=generator)
    count = 1 + int(torch.randint(_MOST, (), generator=generator))
    labels = torch.randint(len(CLASSES), (count,), generator=generator)
    half = torch.randint(5, 12, (count,), generator=generator)
    x, y = (torch.randint(12, SIZE - 12, (count,), generator=generator) for _ in range(2))
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for label, r, cx, cy in zip(
        labels.tolist(), half.tolist(), x.tolist(), y.tolist(), strict=True
    ):
        dx, dy = (columns - cx).abs(), (rows - cy).abs()
        inside = {
            0: dx.square() + dy.square() <= r * r,
            1: (dx <= r) & (dy <= r),
            2: (torch.minimum(dx, dy) <= r // 3) & (torch.maximum(dx, dy) <= r),
        }[label]
        colour = torch.randn(3, generator=generator)
        image[:, inside] = (2 * colour / colour.norm())[:, None]
    sides = 2 * half + 1
    return Scene(image, torch.stack([x, y, sides, sides], dim=1).float(), labels)


def average_precision(
    found: list[tuple[Tensor, Tensor, Tensor]], scenes: list[Scene]
) -> dict[str, float]:
    """Give the area under the precision-recall curve of each class, at an IoU of 0.5.

    Args:
        found: For each scene boxes ``[n, 4]``, scores ``[n]`` and labels ``[n]``.
        scenes: What is there.

    Returns:
        Average precision by class, and their ``mean``.
    """
    scores: dict[str, float] = {}
    for index, name in enumerate(CLASSES):
        total = sum(int((s.labels == index).sum()) for s in scenes)
        scores[name] = _area(_matches(found, scenes, index), total)
    scores["mean"] = sum(scores.values()) / len(CLASSES)
    return scores


def _matches(
    found: list[tuple[Tensor, Tensor, Tensor]], scenes: list[Scene], label: int
) -> list[bool]:
    """Say of each box of a class, best score first, whether it is the first on an object."""
    ranked = sorted(
        (-float(score), number, box)
        for number, (boxes, values, labels) in enumerate(found)
        for box, score in zip(
            boxes[labels == label].tolist(), values[labels == label].tolist(), strict=True
        )
    )
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, number, box in ranked:
        there = (scenes[number].labels == label).nonzero().flatten().tolist()
        overlaps = [(_overlap(box, scenes[number].boxes[i].tolist()), i) for i in there]
        best, place = max(overlaps, default=(0.0, -1))
        hits.append(best >= _IOU and (number, place) not in taken)
        if hits[-1]:
            taken.add((number, place))
    return hits


def _area(hits: list[bool], total: int) -> float:
    """Sum precision, made non-increasing, over the steps of recall."""
    right = torch.tensor(hits, dtype=torch.float64)
    precision = right.cumsum(0) / torch.arange(1, len(hits) + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0) if hits else precision
    return float((best_from_here * right).sum()) / max(total, 1)


def _overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union of two boxes given by centre and sides."""
    across, down = (_common(a[i], a[i + 2], b[i], b[i + 2]) for i in (0, 1))
    return across * down / (a[2] * a[3] + b[2] * b[3] - across * down)


def _common(a: float, length_a: float, b: float, length_b: float) -> float:
    """Length of what two intervals, given by centre and length, have in common."""
    end = min(a + length_a / 2, b + length_b / 2)
    return max(0.0, end - max(a - length_a / 2, b - length_b / 2))
