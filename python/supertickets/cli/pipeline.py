"""From a command's options to stages, and from their figures to lines on the screen."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from supertickets.cli.options import Common
from supertickets.cli.summary import file_lines, run_lines, ticket_lines
from supertickets.config import Recipe, is_override, load_recipe
from supertickets.errors import ConfigError, InputError
from supertickets.files import atomic_file
from supertickets.hashing import digest
from supertickets.machine import check_device
from supertickets.run import RECIPE_FILE, Outcome, run_stages, stage_states
from supertickets.spaces import space_of
from supertickets.stages import (
    REPORT_FILE,
    TICKET,
    Kind,
    Source,
    Stage,
    choose_formats,
    export_files,
    plan,
    score_ticket,
    write_report,
)
from supertickets.ticket import Ticket
from supertickets.ticket_files import check_replaceable

_DRY_RUN_WORDS = {
    "done": "unchanged, would be skipped",
    "resume": "would go on from its checkpoint",
    "redo": "changed, would be done again",
    "new": "would be done",
}


@dataclass(frozen=True)
class Request:
    """What a command was asked for.

    Attributes:
        common: The shared options.
        recipe: Resolved and valid.
        ticket: The ticket folder that was named.
        own_data: Whether nothing was said about the data, so that the ticket's own holds.
    """

    common: Common
    recipe: Recipe
    ticket: Path | None
    own_data: bool

    @classmethod
    def read(
        cls,
        common: Common,
        arguments: Sequence[str] | None,
        *,
        takes_ticket: bool,
        of_run: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Request:
        """Resolve options and arguments.

        Args:
            common: The shared options.
            arguments: ``[TICKET] [KEY=VALUE]...``.
            takes_ticket: Whether a ticket may stand there.
            of_run: Without a ticket and --config, the recipe is that of the run, if it is there:
                looking at a run must not make another one of it.
            options: Recipe keys that the command's own options set.

        Returns:
            The request.

        Raises:
            ConfigError: An argument or option is wrong.
        """
        overrides = [text for text in arguments or () if is_override(text)]
        others = [text for text in arguments or () if not is_override(text)]
        if len(others) > takes_ticket:
            expected = "[TICKET] and key=value" if takes_ticket else "key=value"
            raise ConfigError(f"arguments: expected {expected}, got {others[-1]!r}")
        ticket = Path(others[0]) if others else None
        about_data = common.config or common.data or common.path
        own_data = not about_data and not any(text.startswith("data.") for text in overrides)
        keys = _keys(common)
        if ticket is not None:
            keys = _keys_of_ticket(ticket, own_data, common.model) | keys
        elif common.name is None and (common.model or common.data or common.weights):
            keys["name"] = _run_name(common)

        def resolve(source: Path | None) -> Recipe:
            given = {**keys, **(options or {})}
            return load_recipe(source, recipe=common.recipe, overrides=overrides, options=given)

        recipe = resolve(common.config)
        stored = common.runs / recipe.name / RECIPE_FILE
        if of_run and ticket is None and common.config is None and stored.is_file():
            recipe = resolve(stored)
        return cls(common, recipe, ticket, own_data)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.common.runs / self.recipe.name


def _keys(common: Common) -> dict[str, Any]:
    """Turn the shared options into recipe keys; what was not given is left out."""
    keys = {
        "name": common.name,
        "seed": common.seed,
        "device": common.device,
        "threads": common.threads,
        "tensorboard": common.tensorboard or None,
        "data.name": common.data,
        "data.path": common.path and str(common.path),
        "model.name": common.model,
        "model.space": common.model and space_of(common.model),
        "model.weights": common.weights and str(common.weights),
    }
    return {key: value for key, value in keys.items() if value is not None}


def _keys_of_ticket(folder: Path, own_data: bool, model: str | None) -> dict[str, Any]:
    """Take network and data from a ticket; a run with it gets a name of its own."""
    ticket = Ticket.from_pretrained(folder)
    network = ticket.architecture
    keys = {f"model.{key}": network[key] for key in ("space", "name", "options")}
    if network["space"] == "import":
        # The user names the factory: nothing is imported because a ticket says so.
        keys = {"model.options": network["options"]} if model == network["name"] else {}
    data = ticket.provenance.get("data")
    if own_data and isinstance(data, Mapping):
        keys |= {f"data.{key}": value for key, value in data.items()}
    name = _slug(str(network["name"]))
    return {**keys, "name": f"{name}-ticket"}


def _run_name(common: Common) -> str:
    """Name a run after what was put in the recipe's place, so that it has a folder of its own."""
    weights = common.weights.stem if common.weights else None
    return "-".join(_slug(part) for part in (common.model, weights, common.data) if part)


_LONGEST_SLUG = 80


def _slug(text: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "net"
    # an architecture spelled out would be longer than a folder's name may be
    return slug if len(slug) <= _LONGEST_SLUG else f"{slug[:40]}-{digest(text)[:8]}"


def carry_out(request: Request, *, last: Kind, out: Path | None = None) -> None:
    """Run the stages up to a kind, and tell what they gave.

    Args:
        request: What was asked for.
        last: The kind of the last stage.
        out: A copy of the tickets, or of the exported files, goes here.

    Raises:
        SuperticketsError: A stage failed.
    """
    recipe, output = request.recipe, request.common.output
    check_device(recipe.device)
    source = Source(request.ticket) if request.ticket is not None else None
    stages = plan(recipe, last=last, source=source)
    targets = {} if out is None else _targets(stages, last, out)
    if last != "export":
        for target in targets.values():
            check_replaceable(target)
    states = stage_states(request.folder, recipe, stages)
    if request.common.dry_run:
        return _dry_run(request, dict(states))
    output.news(f"run {request.folder}")
    outcomes = run_stages(
        request.folder,
        recipe,
        stages,
        log=output.news,
        progress=not request.common.json,
    )
    copies = [_copy(request.folder, o, targets[o.stage]) for o in outcomes if o.stage in targets]
    page = request.folder / REPORT_FILE
    value = {
        "run": str(request.folder),
        "page": str(page) if last == "report" and recipe.report.enabled else None,
        "copies": [str(copy) for copy in copies],
        "stages": [vars(outcome) for outcome in outcomes],
    }
    output.result(value, run_lines(request.folder, recipe, outcomes, copies))


def carry_out_stages(
    request: Request,
    stages: Sequence[Stage],
    lines: Callable[[Sequence[Outcome]], list[str]],
    *,
    copies: Mapping[str, Path] | None = None,
) -> None:
    """Run stages that are no part of the recipe's plan, and tell what they gave.

    Args:
        request: What was asked for.
        stages: In their order.
        lines: Puts the outcomes into words.
        copies: Where a copy of a stage's ticket goes.

    Raises:
        SuperticketsError: A stage failed.
    """
    recipe, output = request.recipe, request.common.output
    check_device(recipe.device)
    copies = copies or {}
    for target in copies.values():
        check_replaceable(target)
    if request.common.dry_run:
        return _dry_run(request, dict(stage_states(request.folder, recipe, stages)))
    output.news(f"run {request.folder}")
    outcomes = run_stages(
        request.folder, recipe, stages, log=output.news, progress=not request.common.json
    )
    made = [_copy(request.folder, o, copies[o.stage]) for o in outcomes if o.stage in copies]
    page = request.folder / REPORT_FILE
    value = {
        "run": str(request.folder),
        "page": str(page) if recipe.report.enabled else None,
        "copies": [str(copy) for copy in made],
        "stages": [vars(outcome) for outcome in outcomes],
    }
    shown = [*lines(outcomes), *([f"page: {page}"] if recipe.report.enabled else [])]
    output.result(value, shown)


def _targets(stages: Sequence[Stage], last: Kind, out: Path) -> dict[str, Path]:
    """Say where copies go: one result to ``out`` itself, several to folders in it."""
    names = [stage.name for stage in stages if stage.kind == last]
    return {name: out if len(names) == 1 else out / name for name in names}


def _copy(run: Path, made: Outcome, target: Path) -> Path:
    """Copy what a stage made, and give back where it is."""
    if made.kind == "export":
        _copy_files(run, made.figures["files"], target)
    else:
        Ticket.from_pretrained(run / made.stage / TICKET).save_pretrained(target)
    return target


def _copy_files(run: Path, files: Sequence[Mapping[str, Any]], target: Path) -> None:
    for row in files:
        source = run / row["path"]
        with atomic_file(target / source.name) as aside:
            shutil.copyfile(source, aside)


def evaluate_ticket(request: Request) -> None:
    """Score one ticket and tell its figures.

    Args:
        request: What was asked for, with a ticket.

    Raises:
        InputError: Ticket and data do not fit.
    """
    recipe, ticket = request.recipe, _named_ticket(request)
    check_device(recipe.device)
    if request.common.dry_run:
        return _dry_run(request, {f"evaluate {ticket}": "new"})
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    found = score_ticket(
        ticket,
        None if request.own_data else recipe.data,
        recipe.model,
        batch_size=recipe.evaluate.batch_size,
        timing_repeats=recipe.evaluate.timing_repeats,
        device=recipe.device,
    )
    request.common.output.result(found, ticket_lines(found))


def export_ticket(request: Request, out: Path | None) -> None:
    """Export one ticket and tell its files.

    Args:
        request: What was asked for, with a ticket.
        out: Folder of the files; none: beside the ticket.

    Raises:
        RunError: A file cannot be written, or gives another output than the ticket.
    """
    recipe, ticket = request.recipe, _named_ticket(request)
    folder = ticket.with_name(f"{ticket.name}-export") if out is None else out
    formats, skipped = choose_formats(recipe)
    if request.common.dry_run:
        return _dry_run(request, {f"export {ticket} as {name}": "new" for name in formats})
    for name in skipped:
        request.common.output.news(f"{name} left out: its packages are not installed")
    files = export_files(recipe, ticket, folder, formats)
    value = {"ticket": str(ticket), "folder": str(folder), "files": files, "skipped": skipped}
    request.common.output.result(value, file_lines(files, folder))


def write_page(request: Request, folder: Path | None) -> None:
    """Write the page of a run folder again.

    Args:
        request: Names the run.
        folder: The run folder; none: the request's.
    """
    run = request.folder if folder is None else folder
    if request.common.dry_run:
        return _dry_run(request, {f"report {run}": "new"})
    page = write_report(run)
    request.common.output.result({"page": str(page)}, [str(page)])


def _named_ticket(request: Request) -> Path:
    if request.ticket is None:
        raise InputError("expected a ticket folder")
    return request.ticket


def _dry_run(request: Request, states: Mapping[str, str]) -> None:
    """Print a recipe that can be used as it is, and what would be done, as its comments."""
    comments = [f"# run: {request.folder}"]
    comments += [f"# {name}: {_DRY_RUN_WORDS[state]}" for name, state in states.items()]
    value = {
        "run": str(request.folder),
        "recipe": request.recipe.model_dump(mode="json"),
        "stages": [{"stage": name, "state": state} for name, state in states.items()],
    }
    lines = [*request.recipe.to_yaml().splitlines(), *comments]
    request.common.output.result(value, lines)
