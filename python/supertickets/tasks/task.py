"""The three tasks: what a batch's target is, which loss is minimised, which figure is maximised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from supertickets.errors import ConfigError, did_you_mean
from supertickets.tasks.losses import (
    IGNORED,
    image_cross_entropy,
    joint_squared_error,
    pixel_cross_entropy,
)

TaskName = Literal["classification", "segmentation", "keypoints"]

__all__ = ["IGNORED", "TASKS", "Task", "TaskName", "get_task"]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: Its word, the same in recipes, tickets and code.
        output: What one output of the network stands for; a network has as many outputs as the data
            has names (``len(data.class_names)``).
        prediction: What the network gives for ``[N, C, H, W]`` images.
        target: What a batch carries beside its images; the first dimension is always N.
        metric: The figure that choices are made by; higher is better for every task.
        smooths: Whether the loss knows label smoothing.
    """

    name: TaskName
    output: str
    prediction: str
    target: str
    metric: str
    smooths: bool

    def losses(
        self,
        prediction: Tensor,
        target: Tensor,
        *,
        image_size: tuple[int, int],
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Give one loss per image; a batch's loss is their mean, however images are grouped.

        Args:
            prediction: What the network gave, as :attr:`prediction` says.
            target: As :attr:`target` says.
            image_size: Height and width of the images that the network saw.
            label_smoothing: In ``[0, 1)``, of the cross-entropies.

        Returns:
            ``[N]``: cross-entropy in nats (segmentation: the mean over an image's pixels that
            count), or half the squared error of the heat-maps.

        Raises:
            InputError: Prediction and target do not fit.
        """
        if self.name == "classification":
            return image_cross_entropy(prediction, target, label_smoothing=label_smoothing)
        if self.name == "segmentation":
            return pixel_cross_entropy(prediction, target, label_smoothing=label_smoothing)
        return joint_squared_error(prediction, target, image_size=image_size)

    def loss(
        self,
        prediction: Tensor,
        target: Tensor,
        *,
        image_size: tuple[int, int],
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Give the mean of :meth:`losses`, a scalar; the arguments are the same."""
        if self.name == "classification":  # torch's own mean, so that its users get the same bits
            return image_cross_entropy(
                prediction, target, label_smoothing=label_smoothing, mean=True
            )
        return self.losses(
            prediction, target, image_size=image_size, label_smoothing=label_smoothing
        ).mean()


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="classification",
            output="class",
            prediction="logits [N, classes]",
            target="int64 [N], the class",
            metric="accuracy",
            smooths=True,
        ),
        Task(
            name="segmentation",
            output="class",
            prediction="logits [N, classes, h, w], resized to the mask where they are smaller",
            target=f"int64 [N, H, W], a class per pixel; {IGNORED} is not counted",
            metric="miou",
            smooths=True,
        ),
        Task(
            name="keypoints",
            output="joint",
            prediction="heat-maps [N, joints, h, w], of any size",
            target=(
                "float32 [N, joints, 4]: x and y in pixels of the image (the centre of the first "
                "pixel is 0, 0), visibility (0 not labelled, 1 hidden, 2 seen), and the distance "
                "in pixels at which the similarity of a joint has fallen to exp(-1/2)"
            ),
            metric="ap",
            smooths=False,
        ),
    )
}
_SHORT = {"cls": "classification", "seg": "segmentation", "pose": "keypoints"}


def get_task(word: str) -> Task:
    """Find a task by its word, or by ``cls``, ``seg`` or ``pose``.

    Raises:
        ConfigError: There is none.
    """
    name = _SHORT.get(word, word)
    if name not in TASKS:
        raise ConfigError(f"task: no task {word!r}{did_you_mean(word, [*TASKS, *_SHORT])}")
    return TASKS[name]
