"""The same network for another task: its options with another head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from supertickets.errors import ConfigError
from supertickets.spaces.hrnet import hrnet_for_task, hrnet_names
from supertickets.spaces.plain import gives_maps, plain_names
from supertickets.tasks import TASKS, TaskName


def options_for_task(
    space: str, name: str, options: Mapping[str, Any], task: TaskName
) -> dict[str, Any]:
    """Give the options with which a network's name stands for a task.

    Args:
        space: As in :class:`supertickets.spaces.ModelConfig`.
        name: The network.
        options: Its options, perhaps for another task.
        task: What it is to do.

    Returns:
        New options. A user's own factory gets ``task`` as an option where it is not to classify.

    Raises:
        ConfigError: The network has no feature maps to put the task's head on.
    """
    if space == "hrnet":
        return hrnet_for_task(name, options, task)
    others = dict(options)
    if others.get("task") in TASKS:
        del others["task"]
    if task == "classification":
        return others
    if space != "import" and not (space == "plain" and gives_maps(name)):
        known = ", ".join((*filter(gives_maps, plain_names()), *hrnet_names()))
        raise ConfigError(
            f"the {space} net {name!r} gives no feature maps for {task}; nets that do: {known}"
        )
    return {**others, "task": task}


def output_layer(model: nn.Module) -> str:
    """Name the layer that gives a network's outputs: its last convolution or linear layer.

    Args:
        model: Any network that defines its layers in the order of their use.

    Raises:
        ConfigError: It has no such layer.
    """
    names = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    if not names:
        raise ConfigError(f"{type(model).__name__} has no convolution and no linear layer")
    return names[-1]
