"""One optimizer step: forward and backward over a group of batches, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn, optim
from torch.nn.parallel import DistributedDataParallel

from supertickets.errors import InputError
from supertickets.tasks import TaskName, get_task
from supertickets.training import distributed
from supertickets.training.config import TrainConfig

Batch = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class NotFiniteError(Exception):
    """A loss or a gradient is infinite or NaN."""


class StepRunner:
    """Computes gradients and applies them; the same sum whatever the grouping of the samples.

    A step's gradient is that of the mean loss over all samples of the step: over the batches of
    a group, a smaller last batch included, and over the processes.

    Args:
        model: The model, on ``device``.
        optimizer: Over what is optimised, which alone requires gradients.
        config: The options.
        loss: ``loss(model, images, targets)``, a mean over the batch; None for the task's own.
        device: Where batches are moved to.
        task: What the network does.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optim.Optimizer,
        config: TrainConfig,
        loss: Loss | None,
        device: torch.device,
        task: TaskName = "classification",
    ) -> None:
        self._optimizer = optimizer
        self._config = config
        self._device = device
        self._loss: nn.Module = _LossOf(model, loss or task_loss(task, config.label_smoothing))
        if distributed.world_size() > 1:
            # A stage's own loss may leave parts of the model out (a sampled path of a supernet).
            self._loss = DistributedDataParallel(
                self._loss,
                device_ids=[device.index] if device.type == "cuda" else None,
                find_unused_parameters=loss is not None,
            )

    def backward(self, group: Sequence[Batch]) -> tuple[float, int]:
        """Leave the gradient of the group's mean loss in the parameters.

        Args:
            group: The batches of one optimizer step, at least one.

        Returns:
            The summed loss and the number of samples, over all processes.

        Raises:
            NotFiniteError: The loss is not finite; the parameters are untouched.
        """
        self._optimizer.zero_grad(set_to_none=True)
        (count,) = distributed.totals(
            [float(sum(len(labels) for _, labels in group))], self._device
        )
        summed = 0.0
        for index, (images, labels) in enumerate(group):
            weight = len(labels) * distributed.world_size() / count
            summed += self._backward_one(images, labels, weight, last=index == len(group) - 1)
        (summed,) = distributed.totals([summed], self._device)
        if not math.isfinite(summed):
            raise NotFiniteError(f"the loss is {summed / count}")
        return summed, int(count)

    def update(self, lr: float) -> None:
        """Clip the gradient if asked to, and do one optimizer step.

        Raises:
            NotFiniteError: The gradient to clip is not finite; the parameters are untouched.
        """
        if self._config.clip_norm:
            groups = self._optimizer.param_groups
            parameters = [parameter for group in groups for parameter in group["params"]]
            norm = nn.utils.clip_grad_norm_(parameters, self._config.clip_norm)
            if not math.isfinite(norm.item()):
                raise NotFiniteError(f"the gradient norm is {norm.item()}")
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()

    def _backward_one(self, images: Tensor, labels: Tensor, weight: float, *, last: bool) -> float:
        images = images.to(self._device, non_blocking=True)
        labels = labels.to(self._device, non_blocking=True)
        with self._exchange(last):
            with self._precision():
                loss = self._loss(images, labels)
            (loss * weight).backward()
        return loss.item() * len(labels)

    def _precision(self) -> torch.autocast:
        low = self._config.precision == "bfloat16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=low)

    def _exchange(self, last: bool) -> AbstractContextManager[None]:
        """Let the processes exchange gradients once per step, with its last batch."""
        if isinstance(self._loss, DistributedDataParallel) and not last:
            return self._loss.no_sync()
        return nullcontext()


def task_loss(task: TaskName, label_smoothing: float = 0.0) -> Loss:
    """Make the loss used when a stage brings none of its own.

    Args:
        task: What the network does.
        label_smoothing: In ``[0, 1)``.

    Returns:
        The mean over the batch of the task's loss per image.

    Raises:
        InputError: The task's loss knows no label smoothing, and some is asked for.
    """
    rules = get_task(task)
    if label_smoothing and not rules.smooths:
        raise InputError(f"train: label_smoothing is for classes, got {label_smoothing} for {task}")

    def loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        size = (images.shape[2], images.shape[3])
        return rules.loss(model(images), targets, image_size=size, label_smoothing=label_smoothing)

    return loss


class _LossOf(nn.Module):
    """A model with its loss as one module.

    Wrapping this, rather than the model, for distributed training lets a loss use the model's own
    attributes and call it more than once per batch.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self._loss(self.model, images, labels)
