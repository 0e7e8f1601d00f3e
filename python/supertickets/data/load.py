"""From a config to a data set with its three splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from supertickets.data.augment import Augmentation
from supertickets.data.cifar import read_cifar
from supertickets.data.coco import read_coco
from supertickets.data.config import DataConfig
from supertickets.data.cut import check_classes, stratified_cut
from supertickets.data.digits import read_digits
from supertickets.data.folder import read_folder, read_imagenet
from supertickets.data.idx import read_idx
from supertickets.data.loader import Loader
from supertickets.data.normalise import IMAGENET, Normalisation, measure
from supertickets.data.segmentation import read_ade20k, read_camvid, read_cityscapes, read_masks
from supertickets.data.shapes import read_shapes
from supertickets.data.source import Source
from supertickets.data.splits import MemorySplit, SampleSplit, Split
from supertickets.errors import DataError, InputError, did_you_mean
from supertickets.seeds import generator
from supertickets.tasks import TaskName

_SHAPES_SIZE = 64
_WITH_FILES_OF_TARGETS = ("cityscapes", "ade20k", "camvid", "masks", "coco")

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class ImageData:
    """Images, labels and classes of one data set. Choices are made on ``validation`` alone.

    Attributes:
        name: The config's name of the data set.
        class_names: A name per output of a network: classes, or joints.
        channels: 1 (grey) or 3 (RGB).
        image_size: Height and width in pixels.
        train: What is trained on.
        validation: What choices are made on.
        test: What the final figures are from.
        normalisation: Applied to all three; figures of the train split, or ImageNet's constants.
        augmentation: How training images are varied.
        workers: Processes that decode image files.
        task: What the targets are for.
        mirrored: Pairs of joints that change places in a mirror.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    train: Split
    validation: Split
    test: Split
    normalisation: Normalisation
    augmentation: Augmentation
    workers: int = 0
    task: TaskName = "classification"
    mirrored: tuple[tuple[int, int], ...] = ()

    @property
    def num_classes(self) -> int:
        """How many outputs a network for it has: classes, or joints."""
        return len(self.class_names)

    def loader(
        self,
        split: SplitName,
        *,
        batch_size: int,
        seed: int = 0,
        augment: bool | None = None,
        shuffle: bool | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Loader:
        """Give the batches of one split.

        A loader that shuffles or augments is one to train with: a last batch of a single sample is
        left out, as BatchNorm cannot train on it, and ranks get equally many samples by repeating
        the first few. Any other loader gives every sample once, so ranks may differ in length.

        Args:
            split: ``train``, ``validation`` or ``test``.
            batch_size: Samples per batch and rank.
            seed: Decides order and augmentation, together with the epoch and the sample's index.
            augment: Whether images are varied; ``None``: if ``split`` is ``train``.
            shuffle: Whether the order is random; ``None``: if ``split`` is ``train``.
            rank: This process's number.
            world_size: How many processes share the split.

        Returns:
            A loader at epoch 0.

        Raises:
            InputError: An argument is out of range.
        """
        if split not in ("train", "validation", "test"):
            hint = did_you_mean(split, ("train", "validation", "test"))
            raise InputError(f"loader: no split {split!r}{hint}")
        training = split == "train"
        varied = training if augment is None else augment
        return Loader(
            getattr(self, split),
            self.normalisation,
            batch_size=batch_size,
            seed=seed,
            augmentation=self.augmentation if varied else "none",
            shuffle=training if shuffle is None else shuffle,
            rank=rank,
            world_size=world_size,
            workers=self.workers,
            task=self.task,
            mirrored=self.mirrored,
        )


def load_data(config: DataConfig) -> ImageData:
    """Read a data set and divide it.

    Splits that the files have are kept; a missing test split is cut off the training images first,
    then a missing validation split, both stratified by class and decided by ``split_seed`` alone.
    Pixels are normalised by the config's mean and standard deviation, or by those of what is left
    to train on (of a sample of 1,000 for image files that are not held in memory); ImageNet, and
    images with masks or joints that are not held in memory, by ImageNet's published constants.

    Args:
        config: What to read.

    Returns:
        The data set.

    Raises:
        DataError: Something is missing, empty, damaged, or too small to be divided.
    """
    source = _read(config)
    if config.classes is not None:
        source = _of_classes(source, config.classes)
    data = divide(source, config, config.name)
    if config.shuffled_labels:
        return replace(data, train=_in_disorder(data.train, config))
    return data


def divide(source: Source, config: DataConfig, name: str) -> ImageData:
    """Cut the missing splits off a source and measure its pixels.

    Args:
        source: What a reader gave.
        config: Fractions, sizes, normalisation and augmentation.
        name: What the data set is called.

    Returns:
        The data set.

    Raises:
        DataError: A split would be empty, or mean and standard deviation do not fit the channels.
    """
    names, seed = source.label_names, config.split_seed
    if source.task == "classification":
        check_classes(source.train.labels, names, where=source.where)
    train, test, validation = source.train, source.test, source.validation
    if test is None:
        train, test = _cut(train, "test", config.test_fraction, seed, names)
    if validation is None:
        train, validation = _cut(train, "validation", config.validation_fraction, seed, names)
    train, validation, test = (
        _of_size(split, config.size_pair) for split in (train, validation, test)
    )
    channels, height, width = train.shape
    return ImageData(
        name=name,
        class_names=source.class_names,
        channels=channels,
        image_size=(height, width),
        train=train,
        validation=validation,
        test=test,
        normalisation=_normalisation(config, train, channels),
        augmentation=config.augmentation,
        workers=config.workers,
        task=source.task,
        mirrored=source.mirrored,
    )


def _normalisation(config: DataConfig, train: Split, channels: int) -> Normalisation:
    if config.mean is not None and config.std is not None:
        if len(config.mean) != channels:
            raise DataError(
                f"data.mean must have a number per channel ({channels}), got {config.mean}"
            )
        return Normalisation(config.mean, config.std, "given")
    if config.name == "imagenet" or isinstance(train, SampleSplit):
        return IMAGENET
    return measure(train, seed=config.split_seed, workers=config.workers)


def _read(config: DataConfig) -> Source:
    """Call the reader that the config names."""
    size = config.size_pair
    if config.path is not None and config.name in _WITH_FILES_OF_TARGETS:
        return _read_targets(config, config.path, size)
    side = size[0] if size else None
    if config.name in ("folder", "imagenet"):
        assert config.path is not None  # the config was validated
        read = read_folder if config.name == "folder" else read_imagenet
        return read(config.path, image_size=side, lazy=config.lazy, workers=config.workers)
    if config.name == "digits":
        return read_digits()
    if config.name == "shapes":
        return read_shapes(config.shapes, size=side or _SHAPES_SIZE, task=config.task_name)
    if config.name == "idx":
        return read_idx(config.path)
    return read_cifar(config.name, config.path)


def _read_targets(config: DataConfig, path: Path, size: tuple[int, int] | None) -> Source:
    """Read a set whose targets are files of their own."""
    if config.name == "coco":
        return read_coco(
            path,
            image_size=size,
            validation_fraction=config.validation_fraction,
            seed=config.split_seed,
        )
    if config.name == "cityscapes":
        return read_cityscapes(path, image_size=size)
    if config.name == "ade20k":
        return read_ade20k(path, image_size=size)
    read = read_camvid if config.name == "camvid" else read_masks
    return read(path, image_size=size, lazy=config.lazy)


def _of_classes(source: Source, wanted: tuple[str, ...]) -> Source:
    """Keep the images of some classes, which become 0, 1, ... in the given order."""
    places = []
    for name in wanted:
        if name not in source.class_names:
            hint = did_you_mean(name, source.class_names)
            raise DataError(f"data.classes: {source.where} has no class {name!r}{hint}")
        places.append(source.class_names.index(name))
    if len(set(places)) != len(places):
        raise DataError(f"data.classes: each class may stand once, got {list(wanted)}")
    table = torch.full((len(source.class_names),), -1, dtype=torch.int64)
    table[torch.tensor(places, dtype=torch.int64)] = torch.arange(len(places))

    def part(split: Split) -> Split:
        kept = split.take((table[split.labels] >= 0).nonzero()[:, 0])
        return replace(kept, labels=table[kept.labels])

    return replace(
        source,
        class_names=wanted,
        train=part(source.train),
        validation=source.validation and part(source.validation),
        test=source.test and part(source.test),
    )


def _in_disorder(split: Split, config: DataConfig) -> Split:
    """Deal the targets out among the images anew."""
    order = torch.randperm(
        len(split), generator=generator(config.split_seed, "shuffled", config.name)
    )
    if isinstance(split, SampleSplit):
        raise DataError(
            f"data.shuffled_labels: masks and joints of {config.name} belong to their image files; "
            "only targets held in memory can be put in disorder"
        )
    if isinstance(split, MemorySplit) and split.targets is not None:
        return MemorySplit(split.images, split.labels[order], split.targets[order])
    return replace(split, labels=split.labels[order])


def _of_size(split: Split, size: tuple[int, int] | None) -> Split:
    """Resize images that were read whole; a decoder already gives the wanted size."""
    if size is None or not isinstance(split, MemorySplit) or split.shape[1:] == size:
        return split
    return split.resized(size[0])


def _cut(
    split: Split, name: str, fraction: float, seed: int, class_names: tuple[str, ...]
) -> tuple[Split, Split]:
    rest, cut = stratified_cut(
        split.labels, fraction, seed=seed, name=name, class_names=class_names
    )
    return split.take(rest), split.take(cut)
