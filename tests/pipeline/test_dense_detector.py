"""The detector of benchmarks/dense_detector.py: what it draws, and how its boxes are scored."""

from __future__ import annotations

import torch

from benchmarks.dense_detector import Detector, detect, loss
from benchmarks.detection_scenes import CLASSES, SIZE, Scene, average_precision, scene
from supertickets.seeds import generator
from supertickets.spaces import path_space

Found = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def scenes(count: int) -> list[Scene]:
    drawer = generator(0, "scenes")
    return [scene(drawer) for _ in range(count)]


def perfect(some: list[Scene]) -> Found:
    return [(s.boxes, torch.ones(len(s.labels)), s.labels) for s in some]


def test_boxes_hold_their_objects() -> None:
    for one in scenes(20):
        assert one.image.shape == (3, SIZE, SIZE)
        low, high = one.boxes[:, :2] - one.boxes[:, 2:] / 2, one.boxes[:, :2] + one.boxes[:, 2:] / 2
        assert bool((low >= 0).all() and (high <= SIZE).all())
        x, y = one.boxes[-1, :2].long().tolist()  # nothing covers the last object
        assert one.image[:, y, x].norm().item() == 2 or torch.isclose(
            one.image[:, y, x].norm(), torch.tensor(2.0)
        )


def test_average_precision_of_right_missing_doubled_and_wrong_boxes() -> None:
    some = scenes(60)
    found = perfect(some)
    assert average_precision(found, some)["mean"] == 1.0
    doubled = [(b.repeat(2, 1), torch.cat([s, s / 2]), n.repeat(2)) for b, s, n in found]
    assert average_precision(doubled, some)["mean"] == 1.0  # all wrong ones come after all right
    first = [(b.repeat(2, 1), torch.cat([s, s]), n.repeat(2)) for b, s, n in found]
    assert 0.5 <= average_precision(first, some)["mean"] < 0.95
    half: Found = [f if i % 2 else (f[0][:0], f[1][:0], f[2][:0]) for i, f in enumerate(found)]
    for label, name in enumerate(CLASSES):
        kept = sum(int((f[2] == label).sum()) for f in half)
        there = sum(int((s.labels == label).sum()) for s in some)
        assert abs(average_precision(half, some)[name] - kept / there) < 1e-9
    wrong = [(b, s, (n + 1) % len(CLASSES)) for b, s, n in found]
    assert average_precision(wrong, some)["mean"] < 0.3
    away = [(b + torch.tensor([15.0, 0, 0, 0]), s, n) for b, s, n in found]
    assert average_precision(away, some)["mean"] < 0.3


def test_a_detector_learns_one_scene() -> None:
    space, path = path_space(
        "k3e4|k3e4|k3e4|k3e4|k3e4", num_classes=2, channels=3, image_size=(SIZE, SIZE),
        options={"width": 0.5},
    )  # fmt: skip
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = Detector(space.network(path, generator(0, "weights")).backbone())
    some = scenes(2)
    images = torch.stack([one.image for one in some])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = loss(*model(images), some).item()
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(*model(images), some)
        value.backward()
        optimizer.step()
    assert value.item() < 0.2 * first
    boxes, scores, labels = detect(model, some[0].image)
    assert boxes.shape == (10, 4)
    assert scores[0] >= scores[-1]
    assert set(labels.tolist()) <= {0, 1, 2}
