"""What every reader hands over, before validation is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from supertickets.data.splits import Split
from supertickets.errors import DataError
from supertickets.tasks import TaskName


@dataclass(frozen=True)
class Source:
    """A data set as its files divide it.

    Attributes:
        where: Path or name, for messages.
        class_names: A name per output of a network: classes, or joints.
        train: All images that are not in another split.
        validation: The files' own validation split; ``None``: to be cut off ``train``.
        test: The files' own test split; ``None``: to be cut off ``train`` first.
        task: What the targets are for.
        strata: A name per label, where labels are not the outputs' classes.
        mirrored: Pairs of joints that change places in a mirror.
    """

    where: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None
    task: TaskName = "classification"
    strata: tuple[str, ...] = ()
    mirrored: tuple[tuple[int, int], ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """A name per label."""
        return self.strata or self.class_names


def find_folder(
    path: Path | None, usual: Sequence[str], wanted: Sequence[str], *, what: str
) -> Path:
    """Find the folder that holds a data set's files.

    Args:
        path: What the user named: the folder itself, or one above it.
        usual: Folders that are tried when ``path`` is ``None``; their last parts also below it.
        wanted: File names of which one marks the folder.
        what: The data set, for messages.

    Returns:
        The first folder with a marking file.

    Raises:
        DataError: There is none.
    """
    if path is None:
        tried = [Path(folder) for folder in usual]
    else:
        root = path.expanduser()
        if not root.is_dir():
            raise DataError(f"data.path: no folder {str(root)!r}")
        below = [Path(folder).parts for folder in usual]
        tried = [root, *(root.joinpath(*parts[1:]) for parts in below if parts[0] == "data")]
    for folder in tried:
        if any((folder / name).is_file() for name in wanted):
            return folder
    places = ", ".join(map(str, tried))
    raise DataError(f"no {what} in {places}: a file {wanted[0]!r} is expected; set data.path")
