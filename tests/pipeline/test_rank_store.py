"""The score store: kept, shared, and honest about files that are none."""

from __future__ import annotations

import math
import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from supertickets.errors import InputError
from supertickets.rank import Score, ScoreKey, ScoreStore


def key(number: int = 0, **changes: str | int) -> ScoreKey:
    fields = {
        "space": "nasbench201", "settings": "s", "seed": 0, "draw": "round 1", "repeat": 0,
        "indicator": "kappa", "candidate": f"[{number}]",
    }  # fmt: skip
    return ScoreKey(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_score_outlives_its_store(tmp_path: Path) -> None:
    with ScoreStore(tmp_path / "new" / "scores.sqlite") as store:
        store.put([(key(), Score(12.5, "", 0.25))])
    with ScoreStore(tmp_path / "new" / "scores.sqlite") as store:
        assert store.get([key(), key(1)]) == {key(): Score(12.5, "", 0.25)}


@pytest.mark.parametrize(
    "other", [{"settings": "t"}, {"seed": 1}, {"draw": "round 2"}, {"repeat": 1},
              {"indicator": "regions"}, {"space": "darts"}],
)  # fmt: skip
def test_every_part_of_the_key_counts(tmp_path: Path, other: dict[str, str | int]) -> None:
    with ScoreStore(tmp_path / "s.sqlite") as store:
        store.put([(key(), Score(1.0))])
        assert store.get([key(**other)]) == {}


def test_the_first_score_stays(tmp_path: Path) -> None:
    with ScoreStore(tmp_path / "s.sqlite") as store:
        store.put([(key(), Score(1.0))])
        store.put([(key(), Score(2.0))])
        assert store.get([key()])[key()].value == 1.0
        assert len(store) == 1


def test_nan_and_deficiency_are_stored_as_no_value(tmp_path: Path) -> None:
    with ScoreStore(tmp_path / "s.sqlite") as store:
        store.put([(key(0), Score(math.nan, "not finite")), (key(1), Score(None, "deficient"))])
        found = store.get([key(0), key(1)])
    assert [one.value for one in found.values()] == [None, None]
    assert found[key(1)].note == "deficient"


def _write(path: Path, start: int) -> None:
    with ScoreStore(path) as store:
        for number in range(start, start + 40):
            store.put([(key(number), Score(float(number)))])


def test_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(path, start)) for start in (0, 20, 40)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with ScoreStore(path) as store:
        found = store.get([key(number) for number in range(80)])
    assert [score.value for score in found.values()] == [float(n) for n in range(80)]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(InputError, match=f"score store {path}: damaged, or no score store"):
        ScoreStore(path)
    assert path.read_bytes().startswith(b"no database")


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    with pytest.raises(InputError, match="another program"):
        ScoreStore(path)
    with sqlite3.connect(path) as other:
        tables = other.execute("SELECT name FROM sqlite_master").fetchall()
    other.close()
    assert tables == [("bookmarks",)]


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    ScoreStore(path).close()
    with sqlite3.connect(path) as store:
        store.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(InputError, match="expected version 1, got 99"):
        ScoreStore(path)
