"""Sections: what was exported, what a new process measured, and how the run was made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from supertickets.report import numbers
from supertickets.report.blocks import Block, Cell, Code, Column, Details, Section, Table, Text
from supertickets.report.read import EvaluateRow, ExportFile, Run, Stage

_ISO_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d|)")

_EXPORT_COLUMNS = (
    Column("Format", numeric=False),
    Column("File", numeric=False),
    Column("Bytes"),
    Column("Largest error", note="against the ticket"),
    Column("Note", numeric=False),
)
_EVALUATE_COLUMNS = (
    Column("Ticket", numeric=False),
    Column("Test accuracy", note="%"),
    Column("Same as recorded", numeric=False),
    Column("Density", note="% of weights"),
    Column("Effective MACs", note="exact, per image"),
    Column("Our kernels", note="\N{MICRO SIGN}s, one image"),
    Column("Plain modules", note="\N{MICRO SIGN}s, one image"),
)
_STAGE_COLUMNS = (
    Column("Stage", numeric=False),
    Column("Kind", numeric=False),
    Column("State", numeric=False),
    Column("Time"),
    Column("Peak memory"),
    Column("Device", numeric=False),
    Column("Seed"),
    Column("Started", numeric=False),
)


def exports(run: Run) -> Section:
    """Print the exported files and how closely each repeats the ticket's outputs."""
    files = [file for _, figures in run.exports for file in figures.files]
    title = "Exports"
    if not files:
        missing = Text("No ticket has been exported yet.", missing=True)
        return Section("exports", title, "", [missing])
    rows = [
        [
            Cell(file.format),
            Cell(file.path or numbers.MISSING),
            Cell(numbers.count(file.bytes), file.bytes),
            Cell(numbers.error_size(file.max_abs_error), file.max_abs_error),
            Cell(file.note or "", quiet=True),
        ]
        for file in files
    ]
    tickets = [figures.ticket for _, figures in run.exports if figures.ticket]
    caption = f"Exported files of {', '.join(tickets)}" if tickets else "Exported files"
    table = Table("table-exports", caption, _EXPORT_COLUMNS, rows)
    blocks: list[Block] = [table]
    skipped = sorted({name for _, figures in run.exports for name in figures.skipped})
    if skipped:
        words = f"Left out, as its packages are not installed: {', '.join(skipped)}."
        blocks.append(Text(words, missing=True))
    return Section("exports", title, _exports_lead(files), blocks)


def _exports_lead(files: Sequence[ExportFile]) -> str:
    checked = [file.max_abs_error for file in files if file.max_abs_error is not None]
    if not checked:
        return "None of the exported files was compared with the ticket."
    which = "The exported file" if len(checked) == 1 else f"The {len(checked)} checked files"
    verb = "repeats" if len(checked) == 1 else "repeat"
    worst = max(checked)
    if worst == 0:
        return f"{which} {verb} the ticket's outputs exactly."
    return f"{which} {verb} the ticket's outputs within {numbers.error_size(worst)}."


def evaluation(run: Run) -> Section:
    """Print what a new process, which knows only the ticket folder, scored."""
    found = [row for _, figures in run.evaluations for row in figures.rows]
    title = "Evaluated in a new process"
    if not found:
        missing = Text("The tickets have not been evaluated in a new process yet.", missing=True)
        return Section("evaluation", title, "", [missing])
    rows = [
        [
            Cell(row.stage),
            Cell(numbers.bare_percent(row.test_accuracy), row.test_accuracy),
            Cell(numbers.yes_no(row.same_as_recorded)),
            Cell(numbers.bare_percent(row.density, 2), row.density),
            Cell(numbers.count(row.effective_macs), row.effective_macs),
            Cell(numbers.count(row.median_us), row.median_us),
            Cell(numbers.count(row.dense_median_us), row.dense_median_us),
        ]
        for row in found
    ]
    columns: Sequence[Column] = _EVALUATE_COLUMNS
    if all(row.median_us is None for row in found):
        columns, rows = columns[:-2], [row[:-2] for row in rows]
    table = Table("table-evaluation", "Every ticket, loaded from its folder", columns, rows)
    blocks: list[Block] = [table]
    if any(row.median_us is not None for row in found):
        blocks.append(Text(_timing(found)))
    return Section("evaluation", title, _evaluation_lead(found), blocks)


def _evaluation_lead(rows: Sequence[EvaluateRow]) -> str:
    differing = [row.stage for row in rows if row.same_as_recorded is False]
    if differing:
        return f"Not the same as recorded: {', '.join(differing)}."
    same = sum(row.same_as_recorded is True for row in rows)
    if same == len(rows):
        return (
            f"Each of the {same} tickets was loaded from its folder by a process of its own and "
            "scored exactly what is recorded above."
            if same > 1
            else "The ticket was loaded from its folder by a new process and scored exactly what "
            "is recorded above."
        )
    return f"{same} of {len(rows)} tickets were compared with what was recorded."


def _timing(rows: Sequence[EvaluateRow]) -> str:
    """Say what was timed, and openly which of the two was faster."""
    words = (
        "Times are medians of single images on the machine named below: the ticket's masked "
        "network on this package's kernels, and the same function as plain modules with zeros for "
        "removed weights."
    )
    sparse = [row for row in rows if row.density is not None and row.density < 1]
    pairs = [
        (row.median_us, row.dense_median_us)
        for row in sparse
        if row.median_us is not None and row.dense_median_us is not None
    ]
    if not pairs:
        return words
    faster = sum(ours < plain for ours, plain in pairs)
    return f"{words} The kernels were faster for {faster} of {len(pairs)} sparse tickets."


def making(run: Run) -> Section:
    """Print time, memory, machine, versions, seed and recipe."""
    blocks: list[Block] = []
    if run.stages:
        blocks += [_stage_table(run.stages), _environment(run.stages)]
    else:
        blocks.append(Text("No stage has run yet.", missing=True))
    if run.recipe is not None:
        blocks.append(Details("Recipe", [Code("Resolved recipe", run.recipe_text)]))
    else:
        blocks.append(Text("The resolved recipe (recipe.yaml) is not in the folder.", missing=True))
        codes = [Code(stage.name, _yaml(stage.config)) for stage in run.stages if stage.config]
        if codes:
            blocks.append(Details("Configuration of each stage", codes))
    return Section("making", "How the run was made", _making_lead(run.stages), blocks)


def _making_lead(stages: Sequence[Stage]) -> str:
    seconds = [stage.wall_s for stage in stages if stage.wall_s is not None]
    if not seconds:
        return ""
    peaks = [stage.peak_memory_bytes for stage in stages if stage.peak_memory_bytes]
    memory = f" and at most {numbers.size(max(peaks))} of memory" if peaks else ""
    plural = "stage" if len(seconds) == 1 else "stages"
    total = numbers.duration(sum(seconds))
    resumed = any(stage.resumed for stage in stages)
    since = " A resumed stage counts the time since it went on." if resumed else ""
    return f"{len(seconds)} {plural} took {total}{memory}.{since}"


def _stage_table(stages: Sequence[Stage]) -> Table:
    longest = max((stage.wall_s or 0.0 for stage in stages), default=0.0)
    rows = [
        [
            Cell(stage.name),
            Cell(stage.kind),
            Cell(f"{stage.status}, resumed" if stage.resumed else stage.status),
            Cell(
                numbers.duration(stage.wall_s),
                stage.wall_s,
                share=stage.wall_s / longest if stage.wall_s and longest else None,
            ),
            Cell(numbers.size(stage.peak_memory_bytes), stage.peak_memory_bytes),
            Cell(stage.device or numbers.MISSING),
            Cell(numbers.MISSING if stage.seed is None else str(stage.seed), stage.seed),
            Cell(_moment(stage.started), quiet=True),
        ]
        for stage in stages
    ]
    return Table("table-stages", "Stages in the order in which they ran", _STAGE_COLUMNS, rows)


def _moment(started: str | None) -> str:
    """Print an ISO time without fractions of a second; anything else as it is."""
    if started is None:
        return numbers.MISSING
    parts = _ISO_TIME.fullmatch(started)
    if parts is None:
        return started
    zone = "UTC" if parts[3] in {"Z", "+00:00"} else parts[3]
    return f"{parts[1]} {parts[2]} {zone}".rstrip()


def _environment(stages: Sequence[Stage]) -> Table:
    """One row per fact; stages that ran elsewhere show as a second value."""
    rows = [
        [Cell(name.replace("_", " ")), Cell("; ".join(values))]
        for name, values in [
            *_facts([stage.machine for stage in stages]).items(),
            *_facts([stage.versions for stage in stages]).items(),
        ]
    ]
    columns = (Column("What", numeric=False), Column("Value", numeric=False))
    return Table("table-environment", "Machine and versions", columns, rows, sortable=False)


def _facts(found: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    facts: dict[str, list[str]] = {}
    for each in found:
        for name, value in each.items():
            values = facts.setdefault(name, [])
            if str(value) not in values:
                values.append(str(value))
    return facts


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
