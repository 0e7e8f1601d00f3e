"""Tables of trained accuracies: a CSV file, or the NAS-Bench-201 of nats_bench."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from supertickets.errors import DataError, did_you_mean
from supertickets.spaces import Candidate, cell_space, space_of

_INDEX = {"index", "id", "arch_index"}
_NATS_SETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16-120": "ImageNet16-120"}


@dataclass(frozen=True)
class AccuracyTable:
    """Architectures with the accuracies that training gave them.

    Attributes:
        space: The space that all belong to.
        candidates: The architectures.
        accuracies: By the column's name, in the order of ``candidates``.
    """

    space: str
    candidates: tuple[Candidate, ...]
    accuracies: dict[str, tuple[float, ...]]

    def of(self, candidate: Candidate) -> dict[str, float] | None:
        """Look an architecture up; ``None`` where the table has none."""
        try:
            row = self.candidates.index(candidate)
        except ValueError:
            return None
        return {name: values[row] for name, values in self.accuracies.items()}

    def shares_below(self, candidate: Candidate) -> dict[str, float] | None:
        """Say which share of the table an architecture's accuracies exceed."""
        own = self.of(candidate)
        if own is None:
            return None
        return {
            name: sum(value < own[name] for value in values) / len(values)
            for name, values in self.accuracies.items()
        }

    def take(self, rows: Sequence[int]) -> AccuracyTable:
        """Select rows by index."""
        return AccuracyTable(
            self.space,
            tuple(self.candidates[row] for row in rows),
            {name: tuple(values[r] for r in rows) for name, values in self.accuracies.items()},
        )


def read_table(path: Path, columns: Sequence[str] = ()) -> AccuracyTable:
    """Read a CSV file, plain or ``.gz``, with a column ``arch`` and columns of accuracies.

    Args:
        path: The file.
        columns: Columns of accuracies; none: every one of numbers, besides an index.

    Raises:
        DataError: The file is missing or damaged, or a row cannot be read; the message says which.
    """
    if not path.is_file():
        raise DataError(f"table: expected a CSV file, found none at {str(path)!r}")
    try:
        with _open(path) as stream:
            rows = csv.DictReader(stream)
            header = list(rows.fieldnames or ())
            if "arch" not in header:
                raise DataError(f"table {path}: expected a column 'arch', got {header}")
            named = list(columns) or [c for c in header if c != "arch" and c not in _INDEX]
            for column in named:
                if column not in header or column == "arch":
                    known = [c for c in header if c != "arch"]
                    raise DataError(
                        f"table {path}: no column {column!r}{did_you_mean(column, known)}"
                    )
            return _parse(path, rows, named, all_numbers=not columns)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"table {path}: cannot be read: {error}") from error


def from_nats_bench(api: Any, datasets: Sequence[str] = ("cifar10", "cifar100")) -> AccuracyTable:
    """Read the accuracies of a ``nats_bench`` API object of the topology space.

    Args:
        api: What ``nats_bench.create(path, "tss")`` gives.
        datasets: ``cifar10``, ``cifar100`` or ``imagenet16-120``.

    Returns:
        Mean test accuracies in percent after 200 epochs.

    Raises:
        DataError: A data set is unknown.
    """
    for name in datasets:
        if name not in _NATS_SETS:
            raise DataError(f"nats_bench: no data set {name!r}{did_you_mean(name, _NATS_SETS)}")
    parse = cell_space("nasbench201").parse
    count = len(api)
    found: dict[str, tuple[float, ...]] = {}
    for name in datasets:
        key = _NATS_SETS[name]
        found[name] = tuple(
            float(api.get_more_info(i, key, hp="200", is_random=False)["test-accuracy"])
            for i in range(count)
        )
    return AccuracyTable("nasbench201", tuple(parse(api.arch(i)) for i in range(count)), found)


def load_table(path: Path, columns: Sequence[str] = ()) -> AccuracyTable:
    """Read a CSV file, or a folder or file of ``nats_bench`` where that is installed.

    Raises:
        DataError: Nothing there can be read.
    """
    if path.is_dir() or path.name.endswith(".pickle.pbz2"):
        try:
            from nats_bench import create  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise DataError(
                f"table {path}: this looks like files of nats_bench, which is not installed: "
                "pip install nats_bench, or give a CSV file"
            ) from error
        api = create(str(path), "tss", fast_mode=path.is_dir(), verbose=False)
        return from_nats_bench(api, columns or ("cifar10", "cifar100"))
    return read_table(path, columns)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _parse(
    path: Path, rows: Iterator[dict[str, str]], named: list[str], *, all_numbers: bool
) -> AccuracyTable:
    candidates: list[Candidate] = []
    values: dict[str, list[float]] = {name: [] for name in named}
    space: str | None = None
    for line, row in enumerate(rows, start=2):
        where = f"table {path}, line {line}"
        text = row["arch"] or ""
        if space is None:
            space = _space(text, where)
        try:
            candidates.append(_parser(space)(text))
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        for name in list(values):
            number = _number(row.get(name))
            if number is not None:
                values[name].append(number)
            elif all_numbers and len(candidates) == 1:
                del values[name]  # a column of words
            else:
                raise DataError(
                    f"{where}: column {name!r}: expected a number, got {row.get(name)!r}"
                )
    if space is None or not values:
        raise DataError(f"table {path}: expected rows with 'arch' and a column of accuracies")
    if len(set(candidates)) < len(candidates):
        raise DataError(f"table {path}: an architecture stands twice")
    return AccuracyTable(space, tuple(candidates), {k: tuple(v) for k, v in values.items()})


@cache
def _parser(space: str) -> Any:
    return cell_space(space).parse


def _space(text: str, where: str) -> str:
    space = space_of(text)
    if space not in ("nasbench201", "darts"):
        raise DataError(f"{where}: expected a NAS-Bench-201 string or a genotype, got {text!r}")
    return space


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
