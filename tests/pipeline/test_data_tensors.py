"""A user's own tensors become a data set."""

from __future__ import annotations

import pytest
import torch

from supertickets.data import from_tensors
from supertickets.errors import DataError

IMAGES = torch.arange(60 * 3 * 4 * 4).remainder(251).to(torch.uint8).reshape(60, 3, 4, 4)
LABELS = torch.arange(60) % 3


def test_splits_are_disjoint_and_complete() -> None:
    data = from_tensors(IMAGES, LABELS)
    splits = [data.train, data.validation, data.test]
    assert sum(len(split) for split in splits) == 60
    assert [split.labels.bincount().tolist() for split in splits][2] == [4, 4, 4]
    assert (data.num_classes, data.channels, data.image_size) == (3, 3, (4, 4))


def test_given_mean_and_std_are_used() -> None:
    data = from_tensors(IMAGES, LABELS, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    images, _ = next(iter(data.loader("test", batch_size=60)))
    raw = data.test.images.float() / 255
    shift, scale = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([0.5, 1.0, 2.0])
    expected = (raw - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)  # two roundings of float32


@pytest.mark.parametrize(
    ("images", "labels", "options", "words"),
    [
        (IMAGES.float(), LABELS, {}, "uint8"),
        (IMAGES[0], LABELS, {}, r"\[N, 1 or 3, H, W\]"),
        (IMAGES, LABELS[1:], {}, "60 integers"),
        (IMAGES, LABELS.float(), {}, "integers"),
        (IMAGES, LABELS - 1, {}, "from 0"),
        (IMAGES, LABELS, {"class_names": ["a", "b"]}, "label 2 has no name"),
        (IMAGES, LABELS * 2, {}, "1"),
        (IMAGES, LABELS, {"mean": (0.5,), "std": (0.5,)}, "per channel"),
    ],
)
def test_bad_tensors_are_named(images, labels, options, words) -> None:
    with pytest.raises(DataError, match=words):
        from_tensors(images, labels, **options)


def test_mean_without_std_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data.mean and data.std"):
        from_tensors(IMAGES, LABELS, mean=(0.5, 0.5, 0.5))
