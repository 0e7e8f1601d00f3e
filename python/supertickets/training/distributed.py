"""Training over several processes, when torchrun started them; one process needs none of it."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from supertickets.errors import InputError

Result = TypeVar("Result")


def rank() -> int:
    """Give this process's number, 0 when it is alone; right before the group is joined, too."""
    return dist.get_rank() if _joined() else _from_environment("RANK", 0)


def world_size() -> int:
    """Give the number of processes, 1 when this one is alone."""
    return dist.get_world_size() if _joined() else _from_environment("WORLD_SIZE", 1)


def is_main_process() -> bool:
    """Say whether this process writes files and prints."""
    return rank() == 0


def join_group(device: str | torch.device) -> torch.device:
    """Join the process group that torchrun asks for; does nothing when alone or joined.

    Args:
        device: ``"cpu"`` (gloo) or ``"cuda"`` (nccl; this process's own card unless one is named).

    Returns:
        The device this process works on.

    Raises:
        InputError: There is no such device here.
    """
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device must be 'cpu' or 'cuda', got {device!r}") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {str(device)!r}: this PyTorch finds no CUDA device; use 'cpu'")
    if place.type == "cuda" and place.index is None:
        index = _from_environment("LOCAL_RANK", 0) if world_size() > 1 else None
        place = torch.device("cuda", torch.cuda.current_device() if index is None else index)
    if world_size() > 1 and not _joined():
        if place.type == "cuda":
            torch.cuda.set_device(place)
        # Its functions take the group as it is when the module is imported for their default, and
        # would keep one that exists by then, with its threads, beyond the end of the interpreter.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
        atexit.register(_leave_group)
    return place


def on_main(action: Callable[[], Result]) -> Result:
    """Run ``action`` in the main process and give its result, or its error, to all of them.

    Args:
        action: What to do; its result must be picklable.

    Returns:
        The main process's result, in every process.
    """
    if world_size() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome[0] = action()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return cast("Result", outcome[0])


def from_all(value: Result) -> list[Result]:
    """Give the picklable ``value`` of every process, in the order of ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def totals(values: Sequence[float], device: torch.device) -> list[float]:
    """Add each of ``values`` over the processes."""
    if world_size() == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return summed.tolist()


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Overwrite ``tensors`` with the main process's, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def average_(tensors: Iterable[Tensor]) -> None:
    """Overwrite ``tensors`` with their mean over the processes, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(world_size())


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _from_environment(name: str, alone: int) -> int:
    """Read torchrun's variable; it counts only when torchrun's whole set is there."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return alone
    text = os.environ.get(name, str(alone))
    if not text.isdecimal():
        raise InputError(f"environment variable {name} must be a whole number, got {text!r}")
    return int(text)


def _leave_group() -> None:
    """Stop the group's threads; one of gloo's that outlives the interpreter aborts the process."""
    if _joined():
        gc.collect()  # distributed wrappers are cycles, and hold the group
        dist.destroy_process_group()
