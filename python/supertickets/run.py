"""The stage runner: skip what is unchanged, go on where a run was killed, never mix two runs."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TextIO

import torch

from supertickets import machine
from supertickets.config import Recipe
from supertickets.errors import RunError
from supertickets.files import write_json, write_text
from supertickets.hashing import digest, file_hash, folder_hashes
from supertickets.stages import Room, Stage
from supertickets.training import check_tensorboard, join_group, on_main, world_size

SCHEMA = 1
RECIPE_FILE = "recipe.yaml"
Log = Callable[[str], None]
State = Literal["done", "resume", "redo", "new"]

_RECORD = "stage.json"
_STARTED = "started.json"
_CHECKPOINT = "checkpoint"
_TENSORBOARD = "tensorboard"
_PREVIOUS = ".previous"


@dataclass(frozen=True)
class Outcome:
    """What became of one stage."""

    stage: str
    kind: str
    skipped: bool
    wall_s: float
    figures: dict[str, Any]


def run_stages(
    run: Path,
    recipe: Recipe,
    stages: Sequence[Stage],
    *,
    log: Log,
    progress: bool = True,
) -> list[Outcome]:
    """Carry out stages in order, each under ``run/<stage>/``.

    Args:
        run: The run folder; created when missing.
        recipe: The resolved recipe, written to ``run/recipe.yaml``.
        stages: In an order in which each stage follows what it needs.
        log: Takes one line of news.
        progress: Whether stages may draw progress bars.

    Returns:
        One outcome per stage.

    Raises:
        RunError: Another run works in this folder, or a stage failed.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    machine.check_device(recipe.device)
    if recipe.tensorboard:
        check_tensorboard()
    join_group(recipe.device)
    with _locked(run):
        on_main(lambda: write_text(run / RECIPE_FILE, recipe.to_yaml()))
        outcomes = []
        for number, stage in enumerate(stages, 1):
            room = _room(run, recipe, stage, progress, log)
            try:
                outcomes.append(_run_stage(recipe, stage, room, f"[{number}/{len(stages)}]"))
            except KeyboardInterrupt:
                log(f"interrupted in stage {stage.name}; all finished epochs are kept in {run}")
                raise
        return outcomes


def _room(run: Path, recipe: Recipe, stage: Stage, progress: bool, log: Log) -> Room:
    folder = run / stage.name
    tensorboard = folder / _TENSORBOARD if recipe.tensorboard else None
    return Room(run, folder, folder / _CHECKPOINT, progress, tensorboard, log)


def stage_states(run: Path, recipe: Recipe, stages: Sequence[Stage]) -> dict[str, State]:
    """Tell what a run would do with each stage.

    Args:
        run: The run folder; nothing in it is touched.
        recipe: The resolved recipe.
        stages: In their order.

    Returns:
        By name: ``done`` (would be skipped), ``resume`` (was killed), ``redo`` (its config, an
        input or its result changed, or may change with a stage that it needs) or ``new``.
    """
    states: dict[str, State] = {}
    for stage in stages:
        state = _look(run, recipe, stage).state
        settled = all(states.get(name, "done") == "done" for name in stage.needs)
        states[stage.name] = "redo" if state == "done" and not settled else state
    return states


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read ``stage.json``, or give ``None`` where the stage did not end."""
    record = _read_json(folder / _RECORD)
    return record if record is not None and record.get("schema") == SCHEMA else None


@dataclass(frozen=True)
class _View:
    """How a stage's folder stands to what the recipe asks for."""

    state: State
    key: str
    inputs: dict[str, str]
    record: dict[str, Any] | None


def _look(run: Path, recipe: Recipe, stage: Stage) -> _View:
    folder = run / stage.name
    record, started = read_record(folder), _read_json(folder / _STARTED)
    inputs = _inputs(run, stage)
    key = digest(
        {
            "kind": stage.kind,
            "config": stage.config,
            "seed": recipe.seed,
            "device": recipe.device,
            "processes": world_size(),
            "inputs": inputs,
        }
    )
    state: State = "new"
    if record is not None:
        same = record.get("key") == key and record.get("outputs") == _hash_outputs(run, stage)
        state = "done" if same else "redo"
    elif started is not None:
        state = "resume" if started.get("key") == key else "redo"
    return _View(state, key, inputs, record)


def _run_stage(recipe: Recipe, stage: Stage, room: Room, count: str) -> Outcome:
    """Carry out one stage, or skip it; in a distributed run the main process decides."""
    view = on_main(lambda: _look(room.run, recipe, stage))
    if view.state == "done" and view.record is not None:
        room.log(f"{count} {stage.name}: unchanged, skipped")
        wall_s, figures = view.record["wall_s"], view.record["figures"]
        return Outcome(stage.name, stage.kind, True, wall_s, figures)
    missing = [name for name in stage.needs if name not in view.inputs]
    if missing:
        raise RunError(f"stage {stage.name} needs stage {missing[0]}, which has not ended")
    started = on_main(lambda: _begin(room, stage, view, count))
    machine.reset_peak_memory()
    clock = time.perf_counter()
    figures = stage.work(room) if stage.collective else on_main(lambda: stage.work(room))
    wall_s = time.perf_counter() - clock
    facts = {"started": started, "resumed": view.state == "resume", "wall_s": round(wall_s, 3)}
    on_main(lambda: _finish(recipe, stage, room, view, {**facts, "figures": figures}))
    room.log(f"      done in {wall_s:.1f} s")
    return Outcome(stage.name, stage.kind, False, wall_s, figures)


def _begin(room: Room, stage: Stage, view: _View, count: str) -> str:
    """Clear the way for a stage; give the time of its first start."""
    if view.state == "redo":
        previous = room.run / _PREVIOUS / stage.name
        _set_aside(room.folder, previous)
        room.log(f"{count} {stage.name}: {_what_changed(stage, view)}; old result in {previous}")
    else:
        room.log(f"{count} {stage.name}" + (": goes on" if view.state == "resume" else ""))
    mark = _read_json(room.folder / _STARTED)
    if mark is None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        mark = {"key": view.key, "started": now}
        write_json(room.folder / _STARTED, mark)
    return str(mark["started"])


def _finish(
    recipe: Recipe, stage: Stage, room: Room, view: _View, facts: Mapping[str, Any]
) -> None:
    """Write the record: from here on the stage counts as done."""
    outputs = _hash_outputs(room.run, stage)
    record = {
        "schema": SCHEMA,
        "stage": stage.name,
        "kind": stage.kind,
        "status": "done",
        "key": view.key,
        "inputs": view.inputs,
        "config": stage.config,
        "seed": recipe.seed,
        "versions": machine.versions(),
        "device": recipe.device,
        "processes": world_size(),
        "machine": machine.machine(),
        "peak_memory_bytes": machine.peak_memory_bytes(),
        "outputs": outputs,
        "hash": digest(outputs),
        **facts,
    }
    write_json(room.folder / _RECORD, record)
    shutil.rmtree(room.checkpoint, ignore_errors=True)
    (room.folder / _STARTED).unlink(missing_ok=True)


def _inputs(run: Path, stage: Stage) -> dict[str, str]:
    """Hash what a stage reads; a stage that has not ended yet is left out."""
    inputs = dict(stage.outside())
    for name in stage.needs:
        record = read_record(run / name)
        if record is not None:
            inputs[name] = record["hash"]
            if stage.reads_figures:
                inputs[f"{name}/figures"] = digest(record["figures"])
    return inputs


def _what_changed(stage: Stage, view: _View) -> str:
    """Name the first thing that makes an old result worthless."""
    if view.record is None:
        return "an unfinished stage of another recipe was here"
    old, new = dict(_flat(view.record["config"])), dict(_flat(stage.config))
    for key in [*new, *old]:
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key)}, is {new.get(key)}"
    for name in [*view.inputs, *view.record["inputs"]]:
        if view.record["inputs"].get(name) != view.inputs.get(name):
            return f"its input {name} changed"
    return "seed, device, number of processes or a file of its result changed"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _set_aside(folder: Path, previous: Path) -> None:
    """Keep one earlier result: a mistyped option must not cost days of training."""
    shutil.rmtree(previous, ignore_errors=True)
    previous.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(previous)


def _hash_outputs(run: Path, stage: Stage) -> dict[str, str]:
    """Hash the files of a stage's result; its record, checkpoints and curves are not part of it."""
    hashes = folder_hashes(run / stage.name, skip=(_RECORD, _STARTED, _CHECKPOINT, _TENSORBOARD))
    for name in stage.also:
        if (run / name).is_file():
            hashes[f"../{name}"] = file_hash(run / name)
    return hashes


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Hold the run folder; the lock goes with the process, so a killed run leaves none behind."""
    with ExitStack() as held:

        def lock() -> None:
            run.mkdir(parents=True, exist_ok=True)
            _lock(held.enter_context((run / ".lock").open("a+")), run)

        on_main(lock)
        yield


def _lock(file: TextIO, run: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        raise RunError(
            f"run folder {run} is in use by process {owner}: "
            "wait for it, stop it, or give this run another name"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
