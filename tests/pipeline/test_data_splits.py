"""Every data set has three splits that share no image; the split seed decides which is where."""

from __future__ import annotations

import pytest
import torch

from supertickets.data import DataConfig, load_data
from supertickets.data.cut import stratified_cut
from supertickets.data.splits import MemorySplit
from supertickets.errors import DataError

SPLITS = ("train", "validation", "test")


def _rows(split: MemorySplit) -> set[tuple[bytes, int]]:
    pairs = zip(split.images, split.labels, strict=True)
    return {(image.numpy().tobytes(), int(label)) for image, label in pairs}


def test_digits_need_no_files_and_keep_every_image_once() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    data = load_data(DataConfig())
    assert (data.channels, data.image_size, data.num_classes) == (1, (8, 8), 10)
    images = torch.cat([getattr(data, name).images for name in SPLITS])
    labels = torch.cat([getattr(data, name).labels for name in SPLITS])
    levels = (images.double() * 16 / 255).round().flatten(1)
    got = sorted(map(tuple, torch.cat([levels, labels[:, None]], dim=1).long().tolist()))
    rows = zip(digits.data, digits.target, strict=True)
    assert got == sorted((*map(int, row), int(label)) for row, label in rows)


def test_digits_split_is_stratified() -> None:
    data = load_data(DataConfig(test_fraction=0.2, validation_fraction=0.15))
    totals = sum(torch.bincount(getattr(data, name).labels) for name in SPLITS)
    test, validation = torch.bincount(data.test.labels), torch.bincount(data.validation.labels)
    assert ((test - 0.2 * totals).abs() <= 0.5).all()
    assert ((validation - 0.15 * (totals - test)).abs() <= 0.5).all()


def test_split_depends_on_its_seed_alone() -> None:
    first, again = load_data(DataConfig()), load_data(DataConfig(augment="none"))
    other = load_data(DataConfig(split_seed=1))
    for name in SPLITS:
        assert torch.equal(getattr(first, name).images, getattr(again, name).images)
        assert _rows(getattr(first, name)) != _rows(getattr(other, name))


def test_splits_share_no_image() -> None:
    data = load_data(DataConfig())
    train, validation, test = (_rows(getattr(data, name)) for name in SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_training_pixels_are_normalised_to_mean_zero_and_deviation_one() -> None:
    data = load_data(DataConfig())
    loader = data.loader("train", batch_size=100, augment=False)
    pixels = torch.cat([images for images, _ in loader]).double()
    assert data.normalisation.source == "train split"
    assert abs(pixels.mean().item()) < 1e-6
    assert abs(pixels.std(correction=0).item() - 1) < 1e-6


def test_image_size_resizes_images_in_memory() -> None:
    small, large = load_data(DataConfig()), load_data(DataConfig(image_size=16))
    assert large.image_size == (16, 16)
    assert large.test.images.shape == (len(small.test), 1, 16, 16)
    # Bilinear: each 2 x 2 block averages to about the pixel that it came from.
    means = large.test.images.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    correlation = torch.corrcoef(
        torch.stack([means.flatten(), small.test.images.float().flatten()])
    )
    assert correlation[0, 1] > 0.97


def test_every_class_is_in_both_parts_even_if_it_has_two_samples() -> None:
    labels = torch.tensor([0] * 50 + [1] * 2)
    rest, cut = stratified_cut(labels, 0.1, seed=0, name="validation", class_names=("a", "b"))
    assert torch.bincount(labels[cut]).tolist() == [5, 1]
    assert torch.bincount(labels[rest]).tolist() == [45, 1]
    assert torch.equal(torch.cat([rest, cut]).sort().values, torch.arange(52))


def test_class_that_cannot_be_divided_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'b' has 1 image.* validation"):
        stratified_cut(
            torch.tensor([0, 0, 0, 1]), 0.5, seed=0, name="validation", class_names=("a", "b")
        )
