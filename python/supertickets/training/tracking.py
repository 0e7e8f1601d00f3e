"""TensorBoard event files, for those who ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from supertickets.errors import RunError
from supertickets.training.distributed import is_main_process

Track = Callable[[int, Mapping[str, float]], None]


def check_tensorboard() -> None:
    """Refuse to start what would end without its curves.

    Raises:
        RunError: TensorBoard is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise RunError(
            "tensorboard output needs the package tensorboard: "
            "pip install 'supertickets[track]', or leave the option out"
        ) from error


def tensorboard_history(folder: Path | None, history: Sequence[Mapping[str, float]]) -> None:
    """Write the figures of a search that is over, a point per epoch.

    Args:
        folder: Where TensorBoard will look; None writes nothing, as do all but the main process.
        history: One row per epoch, with its number under ``epoch``.

    Raises:
        RunError: TensorBoard is not installed.
    """
    with tensorboard_track(folder) as track:
        for row in history:
            track(int(row["epoch"]), row)


@contextmanager
def tensorboard_track(folder: Path | None, *, first_step: int = 0) -> Iterator[Track]:
    """Open an event file for the figures of each epoch.

    Args:
        folder: Where TensorBoard will look; None writes nothing, as do all but the main process.
        first_step: Optimizer steps done before; a killed run's points after them are dropped.

    Yields:
        ``track(step, figures)``.

    Raises:
        RunError: TensorBoard is not installed.
    """
    if folder is None or not is_main_process():
        yield lambda step, figures: None
        return
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=first_step + 1) as writer:

        def track(step: int, figures: Mapping[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        yield track
