"""Scores in one SQLite file: what was measured once is not measured again."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from supertickets.errors import InputError, RunError

_APPLICATION = 0x5469636B  # "Tick", as SQLite's application_id
_SCHEMA = 1
_WAIT_MS = 60_000

_CREATE = """
CREATE TABLE scores (
    space TEXT NOT NULL,
    settings TEXT NOT NULL,
    seed INTEGER NOT NULL,
    draw TEXT NOT NULL,
    repeat INTEGER NOT NULL,
    indicator TEXT NOT NULL,
    candidate TEXT NOT NULL,
    value REAL,
    note TEXT NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (space, settings, seed, draw, repeat, indicator, candidate)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class ScoreKey:
    """What decides a score.

    Attributes:
        space: Name of the search space.
        settings: Hash of the indicator's settings and of the images.
        seed: The user's seed.
        draw: Which draw of weights and images, such as ``"round 1"``.
        repeat: Which of its repeats.
        indicator: Name of the indicator.
        candidate: The network's live operations, as JSON.
    """

    space: str
    settings: str
    seed: int
    draw: str
    repeat: int
    indicator: str
    candidate: str


@dataclass(frozen=True)
class Score:
    """One measurement.

    Attributes:
        value: ``None`` where there is none: the kernel is rank-deficient, or a number was NaN.
        note: Why there is none, or a warning, such as that all samples have regions of their own.
        seconds: Processor time that it took.
    """

    value: float | None
    note: str = ""
    seconds: float = 0.0


class ScoreStore:
    """A file of scores that several processes may read and write at once.

    Args:
        path: The file; it and its folder are created when missing.

    Raises:
        InputError: The file is damaged, or holds something else.
        RunError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"score store {path}: cannot make its folder: {error}") from error
        with self._words():
            self._connection = sqlite3.connect(path, timeout=_WAIT_MS / 1000, isolation_level=None)
        try:
            with self._words():
                self._open()
        except Exception:
            self._connection.close()
            raise

    def _open(self) -> None:
        run = self._connection.execute
        run(f"PRAGMA busy_timeout = {_WAIT_MS}")
        found, version = self._mark()
        if found == 0:
            # another process may be about to do the same: look again under the lock
            run("BEGIN IMMEDIATE")
            found, version = self._mark()
            tables = run("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if found == 0 and tables == 0:
                run(_CREATE)
                run(f"PRAGMA application_id = {_APPLICATION}")
                run(f"PRAGMA user_version = {_SCHEMA}")
                found, version = _APPLICATION, _SCHEMA
            run("COMMIT")
        if found != _APPLICATION:
            raise InputError(
                f"score store {self.path}: this is an SQLite file of another program; "
                "name a file that does not exist yet"
            )
        if version != _SCHEMA:
            raise InputError(
                f"score store {self.path}: expected version {_SCHEMA}, got {version}; "
                "name another file"
            )
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")

    def _mark(self) -> tuple[int, int]:
        run = self._connection.execute
        return (
            run("PRAGMA application_id").fetchone()[0],
            run("PRAGMA user_version").fetchone()[0],
        )

    def get(self, keys: Iterable[ScoreKey]) -> dict[ScoreKey, Score]:
        """Read the scores that are there."""
        where = " AND ".join(f"{name} = ?" for name in ScoreKey.__dataclass_fields__)
        query = f"SELECT value, note, seconds FROM scores WHERE {where}"
        found = {}
        with self._words():
            for key in keys:
                row = self._connection.execute(query, _values(key)).fetchone()
                if row is not None:
                    found[key] = Score(*row)
        return found

    def put(self, scores: Iterable[tuple[ScoreKey, Score]]) -> None:
        """Write scores in one step; one that is there already stays as it is."""
        rows = [
            (*_values(key), _finite(score.value), score.note, score.seconds)
            for key, score in scores
        ]
        marks = ", ".join("?" * 10)
        with self._words():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(f"INSERT OR IGNORE INTO scores VALUES ({marks})", rows)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def __len__(self) -> int:
        with self._words():
            return int(self._connection.execute("SELECT count(*) FROM scores").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> ScoreStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RunError(f"score store {self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"score store {self.path}: damaged, or no score store at all ({error}); "
                "move it away, and the scores are measured again"
            ) from error


def _values(key: ScoreKey) -> tuple[str | int, ...]:
    return tuple(getattr(key, name) for name in ScoreKey.__dataclass_fields__)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
