"""Batches: order, shards, last batch; the same ones can be had again."""

from __future__ import annotations

import pytest
import torch

from supertickets.data import DataConfig, ImageData, Loader, Normalisation, load_data
from supertickets.data.splits import MemorySplit
from supertickets.errors import InputError

# Pixel value and label of sample i are i: what a loader gives can be told apart.
IDENTITY = Normalisation((0.0,), (1 / 255,), "test")


def _loader(
    count: int, *, batch_size: int = 4, shuffle: bool = True, rank: int = 0, world_size: int = 1
) -> Loader:
    values = torch.arange(count)
    split = MemorySplit(values.to(torch.uint8).view(-1, 1, 1, 1), values)
    return Loader(
        split,
        IDENTITY,
        batch_size=batch_size,
        seed=0,
        augmentation="none",
        shuffle=shuffle,
        rank=rank,
        world_size=world_size,
        workers=0,
    )


def _samples(loader: Loader) -> list[int]:
    return [int(label) for _, labels in loader for label in labels]


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data(DataConfig())


def test_images_and_labels_belong_together_and_have_the_promised_types(digits) -> None:
    for images, labels in _loader(100):
        assert torch.equal(images.flatten().round().long(), labels)
    images, labels = next(iter(digits.loader("train", batch_size=32)))
    assert images.shape == (32, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.is_contiguous()


def test_an_epoch_can_be_had_again_and_differs_from_the_next(digits) -> None:
    loader, again = (digits.loader("train", batch_size=64, seed=7) for _ in range(2))
    loader.set_epoch(3)
    list(loader)
    for one in (loader, again):
        one.set_epoch(5)
    for (images, labels), (images2, labels2) in zip(loader, again, strict=True):
        assert torch.equal(images, images2)
        assert torch.equal(labels, labels2)
    again.set_epoch(6)
    assert not torch.equal(next(iter(loader))[1], next(iter(again))[1])


def test_batch_size_changes_no_image_and_no_order(digits) -> None:
    """Images of an epoch depend on (seed, epoch, sample) only."""
    small, large = (digits.loader("train", batch_size=size, seed=1) for size in (7, 300))
    small_images = torch.cat([images for images, _ in small])
    large_images = torch.cat([images for images, _ in large])
    count = min(len(small_images), len(large_images))
    assert torch.equal(small_images[:count], large_images[:count])


def test_global_generator_is_neither_used_nor_moved(digits) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = [images for images, _ in digits.loader("train", batch_size=64)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    second = [images for images, _ in digits.loader("train", batch_size=64)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_only_training_is_shuffled_and_varied_by_default(digits) -> None:
    train = digits.loader("train", batch_size=100)
    plain = digits.loader("train", batch_size=100, augment=False, shuffle=False)
    test = digits.loader("test", batch_size=100)
    assert torch.equal(torch.cat([labels for _, labels in test]), digits.test.labels)
    assert torch.equal(torch.cat([labels for _, labels in plain]), digits.train.labels)
    pixels = torch.cat([images for images, _ in plain])
    assert torch.equal(pixels, digits.normalisation(digits.train.images))
    assert not torch.equal(torch.cat([labels for _, labels in train]), digits.train.labels)


@pytest.mark.parametrize("count", [1, 4, 7, 8, 9, 100])
def test_evaluation_keeps_every_sample_once(count) -> None:
    loader = _loader(count, shuffle=False)
    batches = list(loader)
    assert _samples(loader) == list(range(count))
    assert len(loader) == len(batches)
    assert loader.samples == count
    assert all(len(labels) == 4 for _, labels in batches[:-1])


@pytest.mark.parametrize(("count", "given"), [(8, 8), (9, 8), (10, 10), (1, 1)])
def test_training_leaves_out_a_last_batch_of_one(count, given) -> None:
    loader = _loader(count)
    samples = _samples(loader)
    assert len(samples) == len(set(samples)) == loader.samples == given
    assert len(loader) == len(list(loader))


def test_batches_of_one_are_given_when_asked_for() -> None:
    assert len(_samples(_loader(5, batch_size=1))) == 5


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_training_shards_have_equal_length_and_cover_everything(world_size) -> None:
    loaders = [_loader(31, rank=rank, world_size=world_size) for rank in range(world_size)]
    shards = [_samples(loader) for loader in loaders]
    together = [sample for shard in shards for sample in shard]
    assert {len(shard) for shard in shards} == {-(-31 // world_size)}
    assert set(together) == set(range(31))
    assert len(together) - 31 == -31 % world_size  # only what fills the last row is repeated


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize("count", [31, 5])
def test_evaluation_shards_count_no_sample_twice(count, world_size) -> None:
    loaders = [
        _loader(count, shuffle=False, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    shards = [_samples(loader) for loader in loaders]
    assert sorted(sample for shard in shards for sample in shard) == list(range(count))
    assert [loader.samples for loader in loaders] == [len(shard) for shard in shards]
    assert [len(loader) for loader in loaders] == [len(list(loader)) for loader in loaders]


def test_more_ranks_than_samples_still_train_on_equal_shards() -> None:
    shards = [_samples(_loader(3, rank=rank, world_size=8)) for rank in range(8)]
    assert [len(shard) for shard in shards] == [1] * 8
    together = [sample for shard in shards for sample in shard]
    assert sorted(together.count(sample) for sample in range(3)) == [2, 3, 3]


def test_variation_of_a_sample_is_the_same_on_every_rank_count(digits) -> None:
    def images_by_content(world_size: int) -> set[bytes]:
        found = set()
        for rank in range(world_size):
            loader = digits.loader("train", batch_size=50, rank=rank, world_size=world_size)
            found |= {image.numpy().tobytes() for images, _ in loader for image in images}
        return found

    assert images_by_content(1) == images_by_content(2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "val"}, "no split 'val'"),
        ({"split": "train", "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"split": "train", "rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), got 2"),
    ],
)
def test_bad_arguments_are_named(digits, arguments, words) -> None:
    with pytest.raises(InputError, match=words):
        digits.loader(**{"batch_size": 4, **arguments})
