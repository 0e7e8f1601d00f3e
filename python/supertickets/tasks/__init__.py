"""What a network can be asked to do: classification, segmentation or keypoints."""

from __future__ import annotations

from supertickets.tasks.heatmaps import decode_heatmaps, draw_heatmaps
from supertickets.tasks.task import IGNORED, TASKS, Task, TaskName, get_task

__all__ = ["IGNORED", "TASKS", "Task", "TaskName", "decode_heatmaps", "draw_heatmaps", "get_task"]
