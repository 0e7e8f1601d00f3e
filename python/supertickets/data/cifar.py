"""CIFAR-10 and CIFAR-100 in their published binary version.

A record is one label byte (CIFAR-100: coarse, then fine) and 3 x 32 x 32 pixels, channels first.
The Python version of the same archives is a pickle, which could run code: it is never opened.

Source: Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from supertickets.data.source import Source, find_folder
from supertickets.data.splits import MemorySplit
from supertickets.errors import DataError

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    title: str
    archive: str
    folder: str
    python_folder: str
    python_file: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    classes: int


_LAYOUTS = {
    "cifar10": _Layout(
        title="CIFAR-10",
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        python_folder="cifar-10-batches-py",
        python_file="data_batch_1",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
        label_bytes=1,
        classes=10,
    ),
    "cifar100": _Layout(
        title="CIFAR-100",
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        python_folder="cifar-100-python",
        python_file="train",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        label_bytes=2,
        classes=100,
    ),
}


def read_cifar(name: str, path: Path | None) -> Source:
    """Read the binary version of CIFAR-10 or CIFAR-100 (fine labels).

    Args:
        name: ``cifar10`` or ``cifar100``.
        path: The folder with the ``.bin`` files, or the one above it; ``None``: ``data/``.

    Returns:
        Train and test as published.

    Raises:
        DataError: A file is missing, truncated or of another version.
    """
    layout = _LAYOUTS[name]
    _refuse_python_version(path, layout)
    files = (*layout.train, layout.test)
    folder = find_folder(path, [f"data/{layout.folder}"], files, what=f"{layout.title} (binary)")
    return Source(
        str(folder),
        _class_names(folder / layout.names, layout),
        train=_read([folder / file for file in layout.train], layout),
        test=_read([folder / layout.test], layout),
    )


def _refuse_python_version(path: Path | None, layout: _Layout) -> None:
    root = Path("data") if path is None else path.expanduser()
    for folder in (root, root / layout.python_folder):
        binary = (folder / layout.train[0]).exists() or (root / layout.folder).exists()
        if (folder / layout.python_file).is_file() and not binary:
            raise DataError(
                f"{folder}: this is the Python version of {layout.title}, a pickle, which is never "
                f"opened; the binary version is wanted ({layout.archive}, with {layout.train[0]})"
            )


def _read(files: Sequence[Path], layout: _Layout) -> MemorySplit:
    """Read whole files of records into one split."""
    size = layout.label_bytes + _PIXELS
    parts = []
    for file in files:
        if not file.is_file():
            raise DataError(f"{layout.title}: no file {file}")
        content = np.fromfile(file, dtype=np.uint8)
        if len(content) == 0 or len(content) % size:
            raise DataError(
                f"{file}: truncated or not {layout.title}: expected a multiple of {size} bytes, "
                f"got {len(content)}"
            )
        records = content.reshape(-1, size)
        worst = int(records[:, layout.label_bytes - 1].max())
        if worst >= layout.classes:
            raise DataError(f"{file}: label {worst}, expected less than {layout.classes}")
        parts.append(records)
    records = np.concatenate(parts)
    labels = records[:, layout.label_bytes - 1].astype(np.int64)
    images = np.ascontiguousarray(records[:, layout.label_bytes :]).reshape(-1, *_SHAPE)
    return MemorySplit(torch.from_numpy(images), torch.from_numpy(labels))


def _class_names(file: Path, layout: _Layout) -> tuple[str, ...]:
    """Read the names that are published with the data; without the file, numbers do."""
    if not file.is_file():
        return tuple(map(str, range(layout.classes)))
    names = tuple(file.read_text(encoding="utf-8").split())
    if len(names) != layout.classes:
        raise DataError(f"{file}: expected {layout.classes} class names, got {len(names)}")
    return names
