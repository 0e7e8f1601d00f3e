"""The board of prioritized paths: every insertion by its rule, in any stream of offers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supertickets.distill import Board
from supertickets.distill.board import Entry, Rule
from supertickets.errors import InputError

PATHS = st.tuples(*[st.integers(0, 2)] * 3)
# Few different values, so that ties, repeated paths and equal costs all come up.
OFFERS = st.lists(st.tuples(PATHS, st.integers(0, 8).map(lambda n: n / 8)), max_size=60)


def macs_of(path: tuple[int, ...]) -> int:
    """Give a cost with ties between paths."""
    return 10 + sum(path)


def snapshot(board: Board) -> list[tuple[tuple[int, ...], float, int]]:
    return [(entry.path, entry.score, entry.macs) for entry in board]


def takes_paper(before: list[Entry], size: int, score: float, macs: int) -> bool:
    if len(before) < size:
        return True
    worst = before[-1]
    return score > worst.score + 0.2 or (score > worst.score and macs < worst.macs)


def takes_top(before: list[Entry], size: int, score: float, macs: int) -> bool:
    return len(before) < size or score > before[-1].score


def takes_pareto(before: list[Entry], size: int, score: float, macs: int) -> bool:
    return all(score > entry.score or macs < entry.macs for entry in before)


RULES: dict[Rule, Callable[[list[Entry], int, float, int], bool]] = {
    "paper": takes_paper,
    "top": takes_top,
    "pareto": takes_pareto,
}


@pytest.mark.parametrize("rule", RULES)
@given(offers=OFFERS, size=st.integers(1, 5))
def test_every_insertion_satisfies_the_rule(
    rule: Rule, offers: list[tuple[tuple[int, ...], float]], size: int
) -> None:
    board = Board(size, rule=rule, gap=0.2, min_macs=11, max_macs=15, warmup_steps=3)
    for step, (path, score) in enumerate(offers):
        before = list(board)
        known = path in board.paths
        events = len(board.events)
        board.offer(step, path, score, macs_of(path))
        new = board.events[events:]
        inserted = [event for event in new if event.kind == "insert"]
        left = [event.path for event in new if event.kind == "leave"]
        allowed = step >= 3 and 11 <= macs_of(path) <= 15
        if known:
            assert not inserted
            assert not left
        else:
            wanted = allowed and RULES[rule](before, size, score, macs_of(path))
            assert [event.path for event in inserted] == [path] * wanted
        if rule != "pareto" and inserted:
            whole = [entry.order for entry in before] + [(-score, macs_of(path), path)]
            assert left == [order[2] for order in sorted(whole)[size:]]
        assert len(board) <= size
        assert len(set(board.paths)) == len(board)
        assert [e.order for e in board] == sorted(e.order for e in board)
        assert all(11 <= entry.macs <= 15 for entry in board)


@given(offers=OFFERS)
def test_the_events_alone_give_the_board(offers: list[tuple[tuple[int, ...], float]]) -> None:
    board = Board(4, rule="pareto")
    for step, (path, score) in enumerate(offers):
        board.offer(step, path, score, macs_of(path))
    replayed: dict[tuple[int, ...], float] = {}
    for event in board.events:
        if event.kind == "leave":
            del replayed[event.path]
        else:
            replayed[event.path] = event.score
    assert replayed == {entry.path: entry.score for entry in board}


def test_equal_scores_prefer_the_cheaper_path_and_never_compare_tensors() -> None:
    board = Board(2, rule="top")
    for path, macs in (((2, 2), 9), ((1, 1), 5), ((0, 0), 5)):
        board.offer(0, path, 0.5, macs, lesson=lambda: (torch.rand(4, 1, 2, 2), torch.rand(4, 3)))
    assert board.paths == [(1, 1), (2, 2)]  # full, and a tie is no reason to change it
    board.offer(1, (0, 0), 0.6, 5)
    assert board.paths == [(0, 0), (1, 1)]  # of two equal scores the expensive one left


def test_an_entry_holds_the_outputs_of_its_own_path() -> None:
    board = Board(2)
    for number in range(2):
        outputs = torch.full((4, 3), float(number))
        board.offer(0, (number,), 0.5, 5, lesson=lambda own=outputs: (torch.rand(4, 1), own))
    for entry in board:
        assert entry.outputs is not None
        assert torch.equal(entry.outputs, torch.full((4, 3), float(entry.path[0])))


def test_a_path_seen_again_has_the_mean_of_its_scores() -> None:
    board = Board(3)
    for score in (0.2, 0.4, 0.9):
        board.offer(0, (1, 2), score, 5)
    (entry,) = board
    assert entry.score == pytest.approx(0.5)
    assert entry.seen == 3
    assert [event.kind for event in board.events] == ["insert", "update", "update"]


def test_new_scores_end_the_luck_of_old_entries() -> None:
    board = Board(2, rule="top")
    board.offer(0, (0,), 1.0, 5)
    board.offer(0, (1,), 0.8, 5)
    changes = board.rescore(7, lambda paths: [{(0,): 0.3, (1,): 0.7}[path] for path in paths])
    assert changes == {(0,): pytest.approx(-0.7), (1,): pytest.approx(-0.1)}
    assert snapshot(board) == [((1,), 0.7, 5), ((0,), 0.3, 5)]
    assert board.offer(8, (2,), 0.5, 5)
    assert board.paths == [(1,), (2,)]


def test_a_second_score_is_asked_for_once_and_decides() -> None:
    board = Board(2, rule="top")
    asked = []

    def confirm(score: float) -> Callable[[], float]:
        return lambda: asked.append(score) or score

    assert board.offer(0, (0,), 0.9, 5, confirm=confirm(0.5))
    assert board.offer(1, (1,), 0.9, 5, confirm=confirm(0.6))
    assert not board.offer(2, (2,), 0.4, 5, confirm=confirm(0.9))  # its first score is too low
    assert not board.offer(3, (3,), 0.9, 5, confirm=confirm(0.3))  # only its first was lucky
    assert board.offer(4, (1,), 1.0, 5, confirm=confirm(1.0))  # known: keeps its score
    assert asked == [0.5, 0.6, 0.3]
    assert snapshot(board) == [((1,), 0.6, 5), ((0,), 0.5, 5)]
    assert board.refused == {"rule": 1, "second score": 1}


def test_refusals_are_counted() -> None:
    board = Board(1, rule="top", min_macs=5, max_macs=6, warmup_steps=1)
    assert not board.offer(0, (0,), 0.9, 5)
    assert not board.offer(1, (0,), 0.9, 4)
    assert not board.offer(1, (0,), 0.9, 7)
    assert not board.offer(1, (0,), float("nan"), 5)
    assert board.offer(1, (0,), 0.5, 5)
    assert not board.offer(2, (1,), 0.5, 5, lesson=lambda: pytest.fail("asked for in vain"))
    assert not board.offer(2, (0,), float("nan"), 5)
    assert board.refused == {"warm-up": 1, "macs": 2, "rule": 3}
    assert snapshot(board) == [((0,), 0.5, 5)]


@given(offers=OFFERS, cut=st.integers(0, 60))
def test_a_board_goes_on_from_its_state(
    offers: list[tuple[tuple[int, ...], float]], cut: int
) -> None:
    whole, first = Board(3), Board(3)
    for step, (path, score) in enumerate(offers):
        whole.offer(step, path, score, macs_of(path))
        if step < cut:
            first.offer(step, path, score, macs_of(path))
    resumed = Board(3)
    resumed.load_state_dict(first.state_dict())
    for step, (path, score) in list(enumerate(offers))[cut:]:
        resumed.offer(step, path, score, macs_of(path))
    assert snapshot(resumed) == snapshot(whole)
    assert resumed.events == whole.events
    assert resumed.refused == whole.refused


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match="size must be at least 1, got 0"):
        Board(0)
    with pytest.raises(InputError, match="rule must be paper, pareto or top, got 'best'"):
        Board(rule="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_macs must be at least 9, got 8"):
        Board(min_macs=9, max_macs=8)
    board = Board()
    board.offer(0, (0,), 0.5, 5)
    with pytest.raises(InputError, match="expected 1 new scores, got 2"):
        board.rescore(1, lambda paths: [0.1, 0.2])
