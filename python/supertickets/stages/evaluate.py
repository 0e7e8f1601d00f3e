"""The stage that scores every saved ticket again, each in a process that knows nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supertickets.config import Recipe
from supertickets.data import DataConfig, ImageData, load_data
from supertickets.errors import InputError, RunError
from supertickets.evaluate import latency, measure_split, model_cost
from supertickets.spaces import ModelConfig, example_input
from supertickets.stages.base import TICKET, TUNED_TICKET, Room, Stage, data_options, skeleton
from supertickets.stages.train import split_figures
from supertickets.tasks import TaskName, get_task
from supertickets.ticket import Ticket


def evaluate_stage(recipe: Recipe, stages: Sequence[str]) -> Stage:
    """Make the stage that checks the tickets of earlier stages.

    Args:
        recipe: The resolved recipe.
        stages: Names of the stages that saved tickets.

    Returns:
        The stage; its figures are one row per ticket.
    """
    return Stage(
        name="evaluate",
        kind="evaluate",
        config={
            "data": data_options(recipe.data),
            "evaluate": recipe.evaluate.model_dump(mode="json"),
        },
        needs=tuple(stages),
        work=lambda room: _work(stages, room),
        reads_figures=True,
    )


def score_ticket(
    folder: Path,
    data: DataConfig | None,
    model: ModelConfig,
    *,
    batch_size: int = 256,
    timing_repeats: int = 30,
    device: str = "cpu",
) -> dict[str, Any]:
    """Load a ticket, score it on the test split and time it.

    Args:
        folder: A ticket folder.
        data: The images; ``None``: those that the ticket was made with.
        model: Names the user's factory for a ticket that needs one.
        batch_size: Images per batch of the scoring.
        timing_repeats: Timed forward passes of one image.
        device: Where the ticket runs.

    Returns:
        ticket, data, task, metric, the scores of the task (for classification test_accuracy and
        correct), test_loss, test_count, recorded_<metric>, same_as_recorded (``None`` if nothing
        comparable is recorded), density, macs, effective_macs, uniform_macs, ticket_bytes,
        median_us (of the masked network on our kernels), dense_median_us (of the same function as
        plain modules), threads.

    Raises:
        TicketError: The ticket is damaged.
        InputError: The data is not known, or is for another task or other classes.
    """
    ticket = Ticket.from_pretrained(folder)
    config = data if data is not None else _own_data(ticket, folder)
    task = get_task(ticket.task)
    images = load_data(config := _for_task(config, task.name, folder))
    _check_classes(ticket, images, folder)
    own = skeleton(ticket, model)
    masked, plain = ticket.to_masked(own).to(device), ticket.to_dense(own).to(device)
    scored = measure_split(masked, images, "test", batch_size=batch_size, device=device)
    example = example_input(images.channels, images.image_size).to(device)
    cost = model_cost(masked, example)
    time_masked = latency(masked, example, timing_repeats)
    recorded = _recorded(ticket, config, task.metric)
    return {
        "ticket": str(folder),
        "data": images.name,
        "task": task.name,
        "metric": task.metric,
        **split_figures(scored, "test", with_loss=True),
        "test_count": scored["count"],
        **({"correct": scored["correct"]} if "correct" in scored else {}),
        f"recorded_{task.metric}": recorded,
        "same_as_recorded": None if recorded is None else recorded == scored[task.metric],
        "density": cost.density,
        "macs": cost.macs,
        "effective_macs": cost.effective_macs,
        "uniform_macs": cost.uniform_macs,
        "ticket_bytes": ticket.bytes,
        "median_us": time_masked.median_us,
        "dense_median_us": latency(plain, example, timing_repeats).median_us,
        "threads": time_masked.threads,
    }


def _own_data(ticket: Ticket, folder: Path) -> DataConfig:
    options = ticket.provenance.get("data")
    if not isinstance(options, Mapping):
        raise InputError(f"ticket {folder} does not say what data it was made with: give --data")
    return DataConfig.model_validate(dict(options))


def _recorded(ticket: Ticket, config: DataConfig, metric: str) -> float | None:
    """Give the score that the ticket carries, if it is of the same images."""
    recorded, options = ticket.metrics.get(f"test_{metric}"), ticket.provenance.get("data")
    if not isinstance(options, Mapping) or not isinstance(recorded, (int, float)):
        return None
    own = _for_task(DataConfig.model_validate(dict(options)), get_task(ticket.task).name, None)
    return float(recorded) if data_options(own) == data_options(config) else None


def _for_task(config: DataConfig, task: TaskName, folder: Path | None) -> DataConfig:
    """Ask data that serves several tasks for the ticket's; refuse data for another one."""
    if config.task is None and config.serves(task):
        return config.model_copy(update={"task": task})
    if config.task_name != task and folder is not None:
        raise InputError(
            f"ticket {folder}: it is for {task}, but the data set {config.name} is asked for "
            f"{config.task_name}; supertickets transfer brings a ticket to another task"
        )
    return config


def _check_classes(ticket: Ticket, images: ImageData, folder: Path) -> None:
    expected = ticket.class_names
    if expected and expected != images.class_names:
        raise InputError(
            f"ticket {folder}: it knows the classes {_shorten(expected)}, "
            f"but the data set {images.name} has {_shorten(images.class_names)}"
        )


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 5 else shown


def _work(stages: Sequence[str], room: Room) -> dict[str, Any]:
    rows = []
    for stage in stages:
        for name in (TICKET, TUNED_TICKET):
            folder = room.run / stage / name
            if folder.is_dir():
                label = stage if name == TICKET else f"{stage} (tuned)"
                rows.append({"stage": label, **_in_new_process(folder, room)})
    changed = [row for row in rows if row["same_as_recorded"] is not True]
    if changed:
        told = "; ".join(
            f"{row['stage']}: {row['test_' + row['metric']]:.6f}, recorded "
            f"{row['recorded_' + row['metric']]:.6f}"
            for row in changed
        )
        raise RunError(f"evaluate: a new process gets another test score than recorded: {told}")
    return {"rows": rows}


def _in_new_process(ticket: Path, room: Room) -> dict[str, Any]:
    recipe = room.run / "recipe.yaml"
    command = [sys.executable, "-m", "supertickets", "evaluate", str(ticket)]
    command += ["--config", str(recipe), "--json"]
    # Under torchrun the child would otherwise wait for the other processes.
    alone = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        raise RunError(f"evaluate: {ticket} failed in a new process: {done.stderr.strip()[-500:]}")
    row: dict[str, Any] = json.loads(done.stdout)
    del row["ticket"]
    told = "as recorded" if row["same_as_recorded"] else "not as recorded"
    metric = row["metric"]
    room.log(f"      {ticket.parent.name}: test {metric} {row['test_' + metric]:.2%}, {told}")
    return row
