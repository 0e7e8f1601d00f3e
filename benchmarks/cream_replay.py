"""The board's rules on a table: no training, exact accuracies, the noise of a batch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from supertickets.distill import Board
from supertickets.distill.board import Rule
from supertickets.rank import AccuracyTable, sizes
from supertickets.seeds import generator
from supertickets.spaces import Path

RULES: tuple[Rule, ...] = ("paper", "pareto", "top")


@dataclass(frozen=True)
class Replay:
    """How much is replayed.

    Attributes:
        draws: Paths that are drawn, with replacement.
        batch: Images behind an observed accuracy.
        rescore_every: Draws between two scorings of the board; 0: never, as in the official code.
        rescore_images: Images behind these.
        confirm: Whether a path is scored on as many images before the board takes it.
        size: Of the board.
        seeds: Repetitions.
    """

    draws: int = 2000
    batch: int = 128
    rescore_every: int = 0
    rescore_images: int = 1000
    confirm: bool = False
    size: int = 10
    seeds: int = 50


def observe(accuracies: Tensor, images: int, rng: torch.Generator) -> list[float]:
    """Draw the accuracies that networks of true accuracies have on so many images each."""
    counts = torch.full_like(accuracies, images)
    return (torch.binomial(counts, accuracies, generator=rng) / images).tolist()


def draws_of(accuracies: Sequence[float], plan: Replay, seed: int) -> list[tuple[int, float]]:
    """Draw architectures with what is observed of each; every rule meets the same ones."""
    rows = torch.randint(len(accuracies), (plan.draws,), generator=generator(seed, "rows"))
    seen = observe(torch.tensor(accuracies)[rows], plan.batch, generator(seed, "noise"))
    return list(zip(rows.tolist(), seen, strict=True))


def replay_board(
    accuracies: Sequence[float], macs: Sequence[int], rule: Rule, plan: Replay, seed: int
) -> Board:
    """Offer random architectures of a table to a board.

    Args:
        accuracies: In ``[0, 1]``.
        macs: In the same order.
        rule: Of the board.
        plan: How much.
        seed: Decides draws and noise.

    Returns:
        The board; its paths are ``(row,)``.
    """
    board = Board(plan.size, rule=rule)
    again = generator(seed, "again")

    def score(paths: Sequence[Path]) -> list[float]:
        true = torch.tensor([accuracies[row] for (row,) in paths])
        return observe(true, plan.rescore_images, again)

    for step, (row, seen) in enumerate(draws_of(accuracies, plan, seed)):
        board.offer(
            step,
            (row,),
            seen,
            macs[row],
            confirm=(lambda row=row: score([(row,)])[0]) if plan.confirm else None,
        )
        if plan.rescore_every and (step + 1) % plan.rescore_every == 0:
            board.rescore(step, score)
    return board


def best_of_random(
    accuracies: Sequence[float], plan: Replay, seed: int, *, again: bool = False
) -> int:
    """Give the row of the best observed accuracy among the same draws; the first of equals.

    Args:
        accuracies: In ``[0, 1]``.
        plan: How much.
        seed: Decides draws and noise.
        again: Score as many of the best as a board holds anew, and take the best of these.
    """
    best: dict[int, float] = {}
    for row, seen in sorted(draws_of(accuracies, plan, seed), key=lambda draw: -draw[1]):
        best.setdefault(row, seen)
    rows = list(best)[: plan.size if again else 1]
    true = torch.tensor([accuracies[row] for row in rows])
    scores = observe(true, plan.rescore_images, generator(seed, "again"))
    return rows[scores.index(max(scores))]


def replay(table: AccuracyTable, column: str, plan: Replay) -> dict[str, Any]:
    """Compare the rules with random search at equal draws.

    Args:
        table: Architectures and accuracies in percent.
        column: The accuracy.
        plan: How much.

    Returns:
        For each rule, and for random search: mean and spread over seeds of the true rank (1 is
        the best of the table) and true accuracy of the entry that is taken, and for boards the mean
        percentile of all entries and the mean MACs.
    """
    accuracies = [value / 100 for value in table.accuracies[column]]
    macs = [size.macs for size in sizes(table.candidates)]
    order = sorted(range(len(accuracies)), key=lambda row: -accuracies[row])
    ranks = {row: place for place, row in enumerate(order, 1)}
    found: dict[str, Any] = {}
    for rule in RULES:
        boards = [replay_board(accuracies, macs, rule, plan, seed) for seed in range(plan.seeds)]
        rows = [[path[0] for path in board.paths] for board in boards]
        found[rule] = _summary([row[0] for row in rows], ranks, accuracies, macs) | {
            "members_percentile": statistics.mean(
                100 * (1 - ranks[row] / len(ranks)) for members in rows for row in members
            ),
            "members_mmacs": statistics.mean(
                macs[row] / 1e6 for members in rows for row in members
            ),
            "members": statistics.mean(map(len, rows)),
            "inserted": statistics.mean(
                sum(event.kind == "insert" for event in board.events) for board in boards
            ),
        }
    for name, again in (("random search", False), ("random search, ten best again", True)):
        taken = [best_of_random(accuracies, plan, s, again=again) for s in range(plan.seeds)]
        found[name] = _summary(taken, ranks, accuracies, macs)
    return {"plan": vars(plan), "column": column, "rows": found}


def _summary(
    rows: Sequence[int],
    ranks: Mapping[int, int],
    accuracies: Sequence[float],
    macs: Sequence[int],
) -> dict[str, float]:
    places = [ranks[row] for row in rows]
    return {
        "mean_rank": statistics.mean(places),
        "median_rank": statistics.median(places),
        "sd_rank": statistics.stdev(places),
        "mean_accuracy": statistics.mean(100 * accuracies[row] for row in rows),
        "mean_mmacs": statistics.mean(macs[row] / 1e6 for row in rows),
    }
