"""Hashes of what a stage reads and writes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def digest(value: Any) -> str:
    """Hash a tree of plain values.

    Args:
        value: Anything that JSON can hold; the order of keys does not matter.

    Returns:
        SHA-256, in hexadecimal.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Hash a file's bytes.

    Args:
        path: The file.

    Returns:
        SHA-256, in hexadecimal.
    """
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def folder_hashes(folder: Path, skip: Collection[str] = ()) -> dict[str, str]:
    """Hash every file in a folder.

    Args:
        folder: The folder.
        skip: Names of files and folders at its top that do not count.

    Returns:
        Hash by path within the folder, sorted.
    """
    hashes = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] not in skip and path.is_file():
            hashes[name.as_posix()] = file_hash(path)
    return hashes


def listing_hash(root: Path) -> str:
    """Hash the names and sizes of a data set's files; reading ImageNet whole would take minutes.

    Args:
        root: A folder, or one file.

    Returns:
        SHA-256, in hexadecimal; it does not depend on where the folder lies.
    """
    if root.is_file():
        return file_hash(root)
    found = hashlib.sha256()
    for folder, below, files in os.walk(root, followlinks=True):
        below.sort()
        for name in sorted(files):
            path = Path(folder, name)
            size = path.stat().st_size
            found.update(f"{path.relative_to(root).as_posix()}\0{size}\n".encode())
    return found.hexdigest()
