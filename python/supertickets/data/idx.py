"""IDX files: MNIST, Fashion-MNIST and their relatives, plain or gzipped.

A file is two zero bytes, a type byte (8: uint8), the number of dimensions, each dimension as a
big-endian 32-bit integer, and the values.

Source: LeCun, Cortes and Burges, "The MNIST database", file formats.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from supertickets.data.source import Source, find_folder
from supertickets.data.splits import MemorySplit
from supertickets.errors import DataError

_USUAL = (
    "data/mnist",
    "data/MNIST/raw",
    "data/fashion-mnist",
    "data/FashionMNIST/raw",
    "/usr/share/datasets/fashion-mnist",
)
_UINT8 = 8


def read_idx(path: Path | None) -> Source:
    """Read a data set of four IDX files, ``train-*`` and ``t10k-*``.

    Args:
        path: The folder with the files, or one above torchvision's ``MNIST/raw``; ``None``:
            ``data/`` and the place of the Debian package ``dataset-fashion-mnist``.

    Returns:
        Train and test as published. Classes are the label values of the train split.

    Raises:
        DataError: A file is missing, truncated or no IDX file.
    """
    folder = find_folder(path, _USUAL, _spellings("train-images-idx3-ubyte"), what="IDX data set")
    train_images, train_labels = _read_pair(folder, "train")
    test_images, test_labels = _read_pair(folder, "t10k")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{folder}: images of train are {train_images.shape[1:]}, of t10k "
            f"{test_images.shape[1:]}"
        )
    values = np.unique(train_labels)
    foreign = np.setdiff1d(test_labels, values)
    if len(foreign):
        raise DataError(f"{folder}: label {foreign[0]} is in t10k but not in train")
    return Source(
        str(folder),
        tuple(map(str, values)),
        train=_split(train_images, train_labels, values),
        test=_split(test_images, test_labels, values),
    )


def read_idx_file(file: Path, dimensions: int) -> np.ndarray:
    """Read one IDX file of uint8.

    Args:
        file: Its path; ``.gz`` is unpacked in memory.
        dimensions: How many dimensions are expected.

    Returns:
        A writable uint8 array.

    Raises:
        DataError: Magic number, dimensions or size are not as expected.
    """
    content = _content(file)
    head = 4 + 4 * dimensions
    expected = bytes([0, 0, _UINT8, dimensions])
    if content[:4] != expected:
        raise DataError(
            f"{file}: magic number {content[:4].hex() or 'missing'}, expected {expected.hex()} "
            f"(uint8, {dimensions} dimensions)"
        )
    if len(content) < head:
        raise DataError(f"{file}: truncated: {len(content)} bytes, the head alone has {head}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    if len(content) - head != math.prod(shape):
        raise DataError(
            f"{file}: truncated or too long: shape {shape} needs {math.prod(shape)} bytes, "
            f"got {len(content) - head}"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape).copy()


def _read_pair(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    images_file = _existing(folder, f"{prefix}-images-idx3-ubyte")
    labels_file = _existing(folder, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx_file(images_file, 3), read_idx_file(labels_file, 1)
    if len(images) != len(labels) or images.size == 0:
        raise DataError(
            f"{images_file}: {len(images)} images of {images.shape[1:]} pixels, but "
            f"{len(labels)} labels in {labels_file.name}"
        )
    return images, labels


def _split(images: np.ndarray, labels: np.ndarray, values: np.ndarray) -> MemorySplit:
    classes = np.searchsorted(values, labels).astype(np.int64)
    return MemorySplit(torch.from_numpy(images[:, None]), torch.from_numpy(classes))


def _spellings(name: str) -> tuple[str, ...]:
    """Give the file names under which one file is found, the published one first."""
    dotted = name.replace("-idx", ".idx")
    return (name, f"{name}.gz", dotted, f"{dotted}.gz")


def _existing(folder: Path, name: str) -> Path:
    for spelling in _spellings(name):
        if (folder / spelling).is_file():
            return folder / spelling
    raise DataError(f"{folder}: no file {name!r}, plain or .gz")


def _content(file: Path) -> bytes:
    if file.suffix != ".gz":
        return file.read_bytes()
    try:
        with gzip.open(file) as stream:
            return stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: damaged gzip file: {error}") from error
