"""Folders of image files, one folder per class; ImageNet is one of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from supertickets.data.decode import Decoder, image_facts
from supertickets.data.source import Source
from supertickets.data.splits import FileSplit, Split
from supertickets.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_VALIDATION_NAMES = ("val", "validation", "valid")
_MEMORY_LIMIT_BYTES = 2**30
_IMAGENET_SIZE = 224
_IMAGENET_ENLARGE = 256 / 224


@dataclass(frozen=True)
class _Listing:
    """The files of one split: paths, and the class of each."""

    folder: Path
    class_names: tuple[str, ...]
    files: list[str]
    classes: list[int]


def read_folder(path: Path, *, image_size: int | None, lazy: bool | None, workers: int) -> Source:
    """Read ``root/class/...`` or ``root/train|val|test/class/...``.

    A folder with ``train`` and ``val`` only keeps ``val`` for the final figures: it is the test
    split, and validation is cut off ``train``. Files without an image suffix are passed over.

    Args:
        path: The root.
        image_size: Height and width; ``None``: that of the files, which must agree.
        lazy: Decode when needed; ``None``: if the decoded pixels exceed 1 GiB.
        workers: Processes that decode.

    Returns:
        The splits that the folders give.

    Raises:
        DataError: A folder is missing, a class is empty, or a file is no image.
    """
    root = existing(path)
    listings = _listings(root)
    every_file = [file for listing in listings.values() for file in listing.files]
    decoder = _decoder_for(every_file, image_size)
    pixels = len(every_file) * decoder.channels * decoder.height * decoder.width
    if lazy is None:
        lazy = pixels > _MEMORY_LIMIT_BYTES
    return _source(root, listings, decoder, lazy=lazy, workers=workers)


def read_imagenet(path: Path, *, image_size: int | None, lazy: bool | None, workers: int) -> Source:
    """Read ``root/train/class/...`` and ``root/val/class/...``; ``val`` is the test split.

    Args:
        path: The root.
        image_size: Height and width; ``None``: 224. Whole images are resized to 256/224 of it.
        lazy: Decode when needed, which ``None`` means too.
        workers: Processes that decode.

    Returns:
        Train and test. No file is opened unless ``lazy`` is false.

    Raises:
        DataError: A folder is missing, a class is empty, or a file is no image.
    """
    root = existing(path)
    for name in ("train", "val"):
        if not (root / name).is_dir():
            raise DataError(f"ImageNet: no folder {str(root / name)!r} with a folder per class")
    listings = {"train": _listing(root / "train"), "test": _listing(root / "val")}
    size = image_size or _IMAGENET_SIZE
    decoder = Decoder(3, size, size, enlarge=_IMAGENET_ENLARGE)
    return _source(root, listings, decoder, lazy=lazy is not False, workers=workers)


def existing(path: Path) -> Path:
    """Give a data set's folder, ``~`` resolved; an error if there is none."""
    root = path.expanduser()
    if not root.is_dir():
        raise DataError(f"data.path: no folder {str(root)!r}")
    return root


def _listings(root: Path) -> dict[str, _Listing]:
    """List the files of each split that the folders give."""
    train = root / "train"
    if not train.is_dir() or not _folders(train):
        return {"train": _listing(root)}
    listings = {"train": _listing(train)}
    for name in _VALIDATION_NAMES:
        if (root / name).is_dir():
            listings["validation"] = _listing(root / name)
            break
    if (root / "test").is_dir():
        listings["test"] = _listing(root / "test")
    elif "validation" in listings:
        listings["test"] = listings.pop("validation")
    return listings


def _listing(folder: Path) -> _Listing:
    """List the image files below each class folder, in the order of their names."""
    names = _folders(folder)
    if not names:
        raise DataError(f"{folder}: no class folders; a folder per class is expected")
    files: list[str] = []
    classes: list[int] = []
    for number, name in enumerate(names):
        found = image_files(folder / name)
        if not found:
            raise DataError(
                f"class {name!r} is empty: no image file ({', '.join(IMAGE_SUFFIXES)}) in "
                f"{str(folder / name)!r}"
            )
        files += found
        classes += [number] * len(found)
    return _Listing(folder, tuple(names), files, classes)


def _folders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )


def image_files(folder: Path) -> list[str]:
    """List the image files at any depth; hidden folders hold caches and copies, not samples."""
    found: list[str] = []
    for parent, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if name[0] != "."]
        found += [
            str(Path(parent, name))
            for name in names
            if name[0] != "." and name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return sorted(found)


def _decoder_for(files: Sequence[str], image_size: int | None) -> Decoder:
    """Look at the head of every file: grey only if all are, and of one size unless one is given."""
    grey = True
    first = image_facts(files[0])
    for file in files:
        facts = image_facts(file)
        grey = grey and facts.grey
        if image_size is None and (facts.height, facts.width) != (first.height, first.width):
            raise DataError(
                f"images of different sizes: {files[0]} is {first.height} x {first.width}, {file} "
                f"is {facts.height} x {facts.width} (height x width); set data.image_size"
            )
    return Decoder(1 if grey else 3, image_size or first.height, image_size or first.width)


def _source(
    root: Path, listings: dict[str, _Listing], decoder: Decoder, *, lazy: bool, workers: int
) -> Source:
    """Check that all splits have the same classes, and decode them unless ``lazy``."""
    train = listings["train"]
    splits: dict[str, Split] = {}
    for name, listing in listings.items():
        odd = sorted(set(train.class_names) ^ set(listing.class_names))
        if odd:
            raise DataError(
                f"{listing.folder} and {train.folder} must have the same class folders; only one "
                f"of them has {odd[0]!r}"
            )
        split = FileSplit(listing.files, torch.tensor(listing.classes), decoder)
        splits[name] = split if lazy else split.in_memory(workers)
    return Source(
        str(root),
        train.class_names,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
    )
