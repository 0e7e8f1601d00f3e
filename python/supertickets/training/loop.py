"""The training loop that every stage shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

from supertickets.errors import InputError
from supertickets.evaluate import modes_restored
from supertickets.tasks import TaskName, get_task
from supertickets.training import distributed
from supertickets.training.callback import BatchLoader, Callback, by_name
from supertickets.training.config import TrainConfig
from supertickets.training.result import TrainResult
from supertickets.training.session import Evaluate, Session
from supertickets.training.step import Loss


def train(
    model: nn.Module,
    loader: BatchLoader,
    config: TrainConfig,
    *,
    seed: int = 0,
    task: TaskName = "classification",
    loss: Loss | None = None,
    evaluate: Evaluate | None = None,
    metric: str = "validation_accuracy",
    parameters: Iterable[nn.Parameter] | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: Path | None = None,
    device: str | torch.device = "cpu",
    label: str = "train",
    progress: bool = True,
    tensorboard: Path | None = None,
) -> TrainResult:
    """Train ``model`` in place; killed at any moment, the same call goes on and ends the same.

    With ``ema_decay`` the averaged weights, and with ``bn_recalibration_batches`` the re-estimated
    statistics, are what is evaluated and what the model holds at the end. When torchrun started the
    process, the gradients are averaged over all processes (the loader is sharded by the caller
    through :func:`rank` and :func:`world_size`); batch-norm statistics are then the main process's.

    Args:
        model: Moved to ``device``; modes and ``requires_grad`` flags are put back at the end.
        loader: Batches of the training split, ``(images [N, C, H, W], targets [N, ...])``; the
            same number of batches in every process.
        config: The options.
        seed: Seeds dropout and whatever else draws from PyTorch's global generator, which is left
            as it was.
        task: What the network does; it decides the targets and the loss.
        loss: ``loss(model, images, targets)``, a scalar mean over the batch; None for the task's
            own, with label smoothing where it knows that.
        evaluate: Called on the model after each epoch, in every process; the main process's figures
            count.
        metric: The figure of ``evaluate`` that ``keep="best"`` maximises.
        parameters: What is optimised, part of the model; None for all that require gradients.
        callbacks: Called in this order at each point.
        checkpoint: Folder of the file ``last.pt``, written after every epoch and resumed from.
        device: ``"cpu"`` or ``"cuda"``.
        label: Name of the training in the progress bar and in messages.
        progress: Show a progress bar on a terminal.
        tensorboard: Folder for TensorBoard event files.

    Returns:
        The history; the model ends in the state of the kept epoch, and so do the callbacks.

    Raises:
        InputError: The arguments do not fit together, or the checkpoint is damaged or foreign.
        RunError: The loss, a clipped gradient or a weight is not finite (the last checkpoint is
            kept), or TensorBoard is asked for and not installed.
    """
    named = by_name(callbacks)
    place = distributed.join_group(device)
    _check_arguments(loader, config, loss, evaluate, metric)
    model.to(place)
    with ExitStack() as stack:
        trained = stack.enter_context(_only_trained(model, parameters))
        stack.enter_context(modes_restored(model))
        stack.enter_context(_repeatable_kernels())
        session = Session(
            model=model,
            loader=loader,
            config=config,
            seed=seed,
            task=get_task(task).name,
            loss=loss,
            evaluate=evaluate,
            metric=metric,
            trained=trained,
            callbacks=named,
            folder=checkpoint,
            device=place,
            label=label,
        )
        return session.run(progress=progress, tensorboard=tensorboard)


def _check_arguments(
    loader: BatchLoader,
    config: TrainConfig,
    loss: Loss | None,
    evaluate: Evaluate | None,
    metric: str,
) -> None:
    if config.keep == "best" and evaluate is None:
        raise InputError(f"train: keep='best' needs evaluate to give {metric!r}, got no evaluate")
    if loss is not None and config.label_smoothing:
        raise InputError("train: label_smoothing belongs to the built-in loss, got a loss as well")
    batches = distributed.from_all(len(loader))
    if min(batches) == 0:
        raise InputError("train: the loader gives no batches")
    if min(batches) != max(batches):
        raise InputError(f"train: every process needs as many batches, got {batches} by rank")


@contextmanager
def _only_trained(
    model: nn.Module, parameters: Iterable[nn.Parameter] | None
) -> Iterator[dict[str, nn.Parameter]]:
    """Let gradients flow to the optimised parameters alone, for a while.

    Yields:
        The optimised parameters by name, in the model's order.
    """
    named = dict(model.named_parameters())
    flags = {name: parameter.requires_grad for name, parameter in named.items()}
    if parameters is None:
        trained = {name: p for name, p in named.items() if p.requires_grad}
    else:
        parameters = list(parameters)  # held, so that no id is used twice
        wanted = {id(parameter) for parameter in parameters}
        trained = {name: p for name, p in named.items() if id(p) in wanted}
        if len(trained) < len(wanted):
            foreign = len(wanted) - len(trained)
            raise InputError(f"train: {foreign} of the given parameters are not in the model")
    if not trained:
        raise InputError("train: there is no parameter to optimise")
    try:
        for name, parameter in named.items():
            parameter.requires_grad_(name in trained)
        yield trained
    finally:
        for name, parameter in named.items():
            parameter.requires_grad_(flags[name])
            parameter.grad = None


@contextmanager
def _repeatable_kernels() -> Iterator[None]:
    """Have cuDNN choose kernels that give the same bits every time, for a while."""
    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
