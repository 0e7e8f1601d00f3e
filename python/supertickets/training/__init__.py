"""The training loop, shared by every stage that trains."""

from supertickets.training.batchnorm import recalibrate_bn
from supertickets.training.callback import BatchLoader, Callback, TrainState
from supertickets.training.config import TrainConfig
from supertickets.training.distributed import (
    is_main_process,
    join_group,
    on_main,
    rank,
    world_size,
)
from supertickets.training.loop import train
from supertickets.training.progress import ProgressBar, progress_bar
from supertickets.training.result import TrainResult
from supertickets.training.tracking import check_tensorboard, tensorboard_history

__all__ = [
    "BatchLoader",
    "Callback",
    "ProgressBar",
    "TrainConfig",
    "TrainResult",
    "TrainState",
    "check_tensorboard",
    "is_main_process",
    "join_group",
    "on_main",
    "progress_bar",
    "rank",
    "recalibrate_bn",
    "tensorboard_history",
    "train",
    "world_size",
]
