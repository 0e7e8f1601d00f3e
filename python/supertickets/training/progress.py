"""A progress bar on a terminal, and silence everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from supertickets.training.distributed import is_main_process


class ProgressBar:
    """Handle of a running bar; does nothing when the bar is not shown."""

    def __init__(self, progress: Progress | None, label: str, total: int, done: int) -> None:
        self._progress = progress
        self._figures: dict[str, str] = {}
        if progress is not None:
            self._task = progress.add_task(label, total=total, completed=done, figures="")

    def advance(self, count: int = 1) -> None:
        """Move on by ``count`` units."""
        if self._progress is not None:
            self._progress.advance(self._task, count)

    def show(self, **figures: float | str) -> None:
        """Set the figures beside the bar, such as ``loss=0.3``; others stay as they are."""
        if self._progress is None:
            return
        for name, value in figures.items():
            self._figures[name] = value if isinstance(value, str) else f"{value:.4g}"
        text = "  ".join(
            f"{name.replace('_', ' ')} {self._figures[name]}" for name in self._figures
        )
        self._progress.update(self._task, figures=text)


@contextmanager
def progress_bar(
    label: str, total: int, *, done: int = 0, enabled: bool = True
) -> Iterator[ProgressBar]:
    """Show a bar on standard error while the block runs.

    Nothing is written unless both standard output and standard error are terminals and this is
    the main process, so that logs and ``--json`` stay clean.

    Args:
        label: What is going on.
        total: Units of work in all.
        done: Units done before, by a run that is resumed.
        enabled: False for silence.

    Yields:
        The handle that moves the bar.
    """
    if not (enabled and is_main_process() and sys.stdout.isatty() and sys.stderr.isatty()):
        yield ProgressBar(None, label, total, done)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield ProgressBar(progress, label, total, done)
