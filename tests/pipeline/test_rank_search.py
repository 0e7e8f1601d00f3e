"""A whole pruning search as a user runs it: the cell, its ticket, the store, and a killed run."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from supertickets.cli import app
from supertickets.ticket import Ticket

SEARCH = ["rank", "search", "--fast", "--ntk-batch", "4", "rank.region_samples=300"]


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def genotype(runs: Path) -> str:
    return next(runs.glob("*/rank/genotype.txt")).read_text().strip()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """Runs folder of one search by one process."""
    folder = tmp_path_factory.mktemp("search")
    result = call(*SEARCH, "--workers", "1", "--runs", folder)
    assert result.exit_code == 0, result.stderr
    assert "round 3: 12 removals scored, 6 operations removed" in result.stderr
    assert "54 removals judged; 116 scores measured" in result.stdout
    return folder


def test_one_operation_stays_on_each_edge(found: Path) -> None:
    cell = genotype(found)
    assert "none" not in cell
    assert [part.count("~") for part in cell.split("|+|")] == [1, 2, 3]
    ticket = Ticket.from_pretrained(next(found.glob("*/rank/ticket")))
    assert ticket.density == 1
    assert ticket.architecture["name"] == cell


def test_two_processes_find_the_same_by_the_same_scores(found: Path, tmp_path: Path) -> None:
    assert call(*SEARCH, "--workers", "2", "--runs", tmp_path).exit_code == 0
    assert genotype(tmp_path) == genotype(found)
    assert scores(tmp_path) == scores(found)


def scores(runs: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(runs / "scores.sqlite") as connection:
        columns = [row[1] for row in connection.execute("pragma table_info(scores)")]
        kept = ", ".join(c for c in columns if "second" not in c and "time" not in c)
        return sorted(connection.execute(f"select {kept} from scores"), key=repr)


def test_a_killed_search_goes_on(found: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "supertickets", *SEARCH, "--workers", "1", "--runs", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        deadline = time.monotonic() + 120
        while not (tmp_path / "scores.sqlite").exists() or not scores(tmp_path):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
    before = len(scores(tmp_path))
    assert before < len(scores(found))
    said = call(*SEARCH, "--workers", "1", "--runs", tmp_path).stdout
    assert f"{116 - before} scores measured, {before} taken from the store" in said
    assert genotype(tmp_path) == genotype(found)
    assert scores(tmp_path) == scores(found)


def test_a_score_is_printed_with_its_size(tmp_path: Path) -> None:
    cell = "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|none~0|nor_conv_1x1~1|skip_connect~2|"
    said = call("rank", "score", cell, "--fast", "--runs", tmp_path)
    assert said.exit_code == 0, said.stderr
    assert "parameters" in said.stdout
    assert "MACs" in said.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--space", "nasbench"], "expected 'nasbench201' or 'darts', got 'nasbench'"),
        (["score", "|foo~0|"], "got '|foo~0|'"),
        (["correlate", "--table", "missing.csv"], "found none at 'missing.csv'"),
        (["search", "--fast", "--imagenet"], "only one of them"),
        (["search", "--imagenet"], "expected space 'darts', the only one"),
        (["search", "--ntk-batch", "1"], "expected greater than or equal to 2, got 1"),
    ],
)
def test_bad_input(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = call("rank", *arguments, "--runs", tmp_path)
    assert result.exit_code != 0
    assert message in result.stderr


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.sqlite").write_bytes(b"not a database, " * 100)
    result = call(*SEARCH, "--runs", tmp_path)
    assert result.exit_code != 0
    assert "scores.sqlite" in result.stderr
