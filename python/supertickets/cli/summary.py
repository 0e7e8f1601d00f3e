"""What was found, in a few lines for the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supertickets.config import Recipe
from supertickets.run import Outcome
from supertickets.stages import REPORT_FILE, TICKET
from supertickets.tasks import get_task

_LABEL_WIDTH = 38
_COLUMN_WIDTH = 13


def run_lines(
    run: Path, recipe: Recipe, outcomes: Sequence[Outcome], copies: Sequence[Path]
) -> list[str]:
    """Tell what stages gave.

    Args:
        run: The run folder.
        recipe: The recipe.
        outcomes: Of the stages, in their order.
        copies: Folders that were written besides the run folder.

    Returns:
        A small table of accuracies, densities and MACs, and where the files are.
    """
    by_kind: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_kind.setdefault(outcome.kind, []).append(outcome)
    jackpots = [outcome.figures for outcome in by_kind.get("jackpot", [])]
    if jackpots:
        lines = _table(recipe, jackpots)
    else:
        lines = [_train_line(recipe, outcome.figures) for outcome in by_kind.get("train", [])]
    found = by_kind.get("supernet", [])
    lines = [line for outcome in found for line in supernet_lines(outcome.figures)] + lines
    last = outcomes[-1]
    if last.kind == "report":
        checked = "; each ticket scored the same in a new process" * ("evaluate" in by_kind)
        lines.append(f"page: {run / REPORT_FILE}{checked}")
    elif last.kind == "export":
        lines += file_lines(last.figures["files"], run)
    elif last.kind in ("supernet", "train", "jackpot") and not copies:
        lines += [f"ticket: {run / outcome.stage / TICKET}" for outcome in by_kind[last.kind]]
    return lines + [f"saved: {copy}" for copy in copies]


def supernet_lines(figures: Mapping[str, Any]) -> list[str]:
    """Tell what one-shot search found.

    Args:
        figures: Of the stage ``supernet``.

    Returns:
        The path with its accuracy and MACs, and the two best of evolution and board.
    """
    evolved = max(figures["evolution"], key=lambda row: row["accuracy"])
    count = len(figures["board"])
    return [
        f"{figures['space']} {figures['arch']}: test accuracy "
        f"{_percent(figures['test_accuracy'])} of {figures['test_count']} images, "
        f"{figures['macs']:,} MACs, density {figures['density']:g}, "
        + ("trained from scratch" if figures["weights"] == "retrain" else "supernet's weights"),
        f"with the supernet's weights, validation: {_percent(figures['supernet_accuracy'])}; "
        f"evolution at equal evaluations ({count}): {_percent(evolved['accuracy'])}",
    ]


def file_lines(files: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Tell which files were exported."""
    return [
        f"{row['format']}: {folder / row['path']} ({row['bytes']:,} bytes, "
        f"largest error {row['max_abs_error']:.1e})"
        for row in files
    ]


def ticket_lines(found: Mapping[str, Any]) -> list[str]:
    """Tell the figures of one ticket.

    Args:
        found: As from :func:`supertickets.stages.score_ticket`.

    Returns:
        The task's score with its count, density and MACs, and the timing.
    """
    counted = f"{found['test_count']} images"
    if "correct" in found:
        counted = f"{found['correct']} of {found['test_count']}"
    times = f"{found['median_us']:.0f} us masked, {found['dense_median_us']:.0f} us dense"
    return [
        f"{found['ticket']} on {found['data']}: test {found['metric']} "
        f"{_percent(found['test_' + found['metric']])} ({counted})" + _comparison(found),
        f"density {found['density']:.4f}, {found['effective_macs']:,} of {found['macs']:,} MACs "
        f"(dense MACs x density: {found['uniform_macs']:,})",
        f"one image: {times} (median, {found['threads']} threads)",
    ]


def _comparison(found: Mapping[str, Any]) -> str:
    recorded = found["recorded_" + found["metric"]]
    if recorded is None:
        return ", nothing recorded to compare with"
    if found["same_as_recorded"]:
        return ", as recorded"
    return f", but recorded is {_percent(recorded)}"


def _train_line(recipe: Recipe, figures: Mapping[str, Any]) -> str:
    metric = get_task(recipe.data.task_name).metric
    return (
        f"dense {recipe.model.name}: test {metric} {_percent(figures[f'test_{metric}'])} of "
        f"{figures['test_count']} images, {figures['macs']:,} MACs, density "
        f"{figures['density']:g}, seed {recipe.seed}"
    )


def _table(recipe: Recipe, jackpots: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [{row["name"]: row for row in figures["rows"]} for figures in jackpots]
    head = f"{jackpots[0]['test_count']} test images, seed {recipe.seed}; sparsity"
    dense = rows[0]["dense"]
    heads = ["dense", *(f"{100 * figures['sparsity']:.4g} %" for figures in jackpots)]
    lines = [_line(head, heads)]
    accuracies = [_percent(row["jackpot"]["test_accuracy"]) for row in rows]
    lines.append(
        _line("jackpot, weights untouched", [_percent(dense["test_accuracy"]), *accuracies])
    )
    if all("jackpot-tuned" in row for row in rows):
        tuned = [_percent(row["jackpot-tuned"]["test_accuracy"]) for row in rows]
        lines.append(_line("jackpot, weights tuned", ["", *tuned]))
    magnitude = [_percent(row["magnitude-bn"]["test_accuracy"]) for row in rows]
    lines.append(_line("magnitude, batch norm re-estimated", ["", *magnitude]))
    costs = [_cost(figures["effective_macs"], figures["density"]) for figures in jackpots]
    dense_cost = _cost(dense["effective_macs"], dense["density"])
    lines.append(_line("exact MACs, density", [dense_cost, *costs]))
    return lines


def _line(label: str, cells: Sequence[str]) -> str:
    return (
        label.ljust(_LABEL_WIDTH) + "".join(cell.rjust(_COLUMN_WIDTH) for cell in cells)
    ).rstrip()


def _cost(macs: int, density: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if macs >= size:
            return f"{macs / size:.3g} {unit}, {density:.2f}"
    return f"{macs}, {density:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
