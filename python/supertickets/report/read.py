"""What a run folder says, read with care: absent figures are ``None``, wrong ones an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from supertickets.errors import InputError

STAGE_FILE = "stage.json"
RECIPE_FILE = "recipe.yaml"


Number = float | None
Share = Annotated[float | None, Field(ge=0, le=1)]
_Item = TypeVar("_Item")
Rows = Annotated[list[_Item], BeforeValidator(lambda value: [] if value is None else value)]


class _Figures(BaseModel):
    """Base of all figures: what is missing is ``None``, what is unknown is left alone."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Epoch(_Figures):
    """One epoch of a training or of a mask search."""

    loss: Number = None
    validation_accuracy: Share = None
    swaps: Number = None
    wanted: Number = None
    restriction: Number = None
    seconds: Number = None


class Row(_Figures):
    """One scored network of a comparison."""

    name: str
    validation_accuracy: Share = None
    test_accuracy: Share = None
    test_count: int | None = None
    density: Share = None
    effective_macs: int | None = None
    retrained: bool | None = None
    epochs: int | None = None


class Layer(_Figures):
    """One masked layer of a jackpot; an overlap is a share of the kept weights."""

    name: str
    shape: Rows[int] = []
    weights: int | None = None
    kept: int | None = None
    density: Share = None
    macs: int | None = None
    effective_macs: int | None = None
    overlap_magnitude: Share = None
    overlap_expected: Share = None


class TrainFigures(_Figures):
    """Figures of a stage of kind ``train``."""

    history: Rows[Epoch] = []
    validation_accuracy: Share = None
    test_accuracy: Share = None
    test_count: int | None = None
    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None


class JackpotFigures(_Figures):
    """Figures of a stage of kind ``jackpot``."""

    sparsity: Share = None
    density: Share = None
    macs: int | None = None
    effective_macs: int | None = None
    uniform_macs: Number = None
    dense_bytes: int | None = None
    ticket_bytes: int | None = None
    source_sha256: str | None = None
    best_epoch: int | None = None
    test_count: int | None = None
    rows: Rows[Row] = []
    history: Rows[Epoch] = []
    history_random_start: Rows[Epoch] = []
    layers: Rows[Layer] = []
    overlap_magnitude: Share = None
    overlap_expected: Share = None

    def row(self, name: str) -> Row | None:
        """Find the comparison row called ``name``."""
        return next((row for row in self.rows if row.name == name), None)


class ExportFile(_Figures):
    """One exported file."""

    format: str
    path: str | None = None
    bytes: int | None = None
    max_abs_error: Number = None
    note: str | None = None


class ExportFigures(_Figures):
    """Figures of a stage of kind ``export``."""

    ticket: str | None = None
    files: Rows[ExportFile] = []
    skipped: Rows[str] = []


class EvaluateRow(_Figures):
    """One ticket, scored again by a process that knows nothing of the search."""

    stage: str
    test_accuracy: Share = None
    same_as_recorded: bool | None = None
    density: Share = None
    effective_macs: int | None = None
    median_us: Number = None
    dense_median_us: Number = None


class EvaluateFigures(_Figures):
    """Figures of a stage of kind ``evaluate``."""

    rows: Rows[EvaluateRow] = []


class ScoredRepeats(_Figures):
    """One indicator of one network; kappa is a natural logarithm."""

    values: Rows[Number] = []
    mean: Number = None
    spread: Number = None


class Removal(_Figures):
    """One operation, or edge, that a round of the pruning search judged."""

    edge: str
    operation: str
    scores: dict[str, ScoredRepeats] = {}
    rank_sum: int = 0
    removed: bool = False


class Round(_Figures):
    """One round of the pruning search."""

    name: str
    kind: str = "operations"
    scores: dict[str, ScoredRepeats] = {}
    removals: Rows[Removal] = []


class SearchFigures(_Figures):
    """Figures of a stage of kind ``rank``."""

    space: str | None = None
    arch: str
    scores: dict[str, ScoredRepeats] = {}
    parameters: int | None = None
    macs: int | None = None
    accuracies: dict[str, float] | None = None
    table_shares: dict[str, float] | None = None
    rounds: Rows[Round] = []


class CorrelateFigures(_Figures):
    """Figures of a stage of kind ``correlate``; columns and accuracies in the order of archs."""

    cells: int = 0
    archs: Rows[str] = []
    columns: dict[str, list[Number]] = {}
    signs: dict[str, int] = {}
    repeats: dict[str, list[list[Number]]] = {}
    accuracies: dict[str, list[float]] = {}
    correlations: dict[str, dict[str, dict[str, Any]]] = {}


class Stage(_Figures):
    """One ``stage.json``: how a stage ran, and its figures as they were written."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str = Field(alias="stage")
    kind: str
    status: str = "unknown"
    resumed: bool = False
    config: dict[str, Any] = {}
    seed: int | None = None
    versions: dict[str, Any] = {}
    device: str | None = None
    machine: dict[str, Any] = {}
    started: str | None = None
    wall_s: Number = None
    peak_memory_bytes: int | None = None
    figures: dict[str, Any] = {}


@dataclass(frozen=True)
class Jackpot:
    """A finished mask search: the stage's name and its figures."""

    stage: str
    sparsity: float
    figures: JackpotFigures


@dataclass(frozen=True)
class Run:
    """All that a run folder holds; every tuple may be empty."""

    name: str
    recipe: dict[str, Any] | None
    recipe_text: str
    stages: tuple[Stage, ...]
    trainings: tuple[tuple[str, TrainFigures], ...]
    jackpots: tuple[Jackpot, ...]
    exports: tuple[tuple[str, ExportFigures], ...]
    evaluations: tuple[tuple[str, EvaluateFigures], ...]
    searches: tuple[tuple[str, SearchFigures], ...] = ()
    correlations: tuple[tuple[str, CorrelateFigures], ...] = ()

    @property
    def only_ranks(self) -> bool:
        """Whether nothing but rankings has been done: no network was trained or masked."""
        ranked = bool(self.searches or self.correlations)
        return ranked and all(stage.kind in ("rank", "correlate") for stage in self.stages)


def read_run(folder: Path) -> Run:
    """Read ``recipe.yaml`` and every ``*/stage.json`` of a run folder.

    Args:
        folder: The run folder; stages that have not run yet may be absent.

    Returns:
        The run; stages in the order in which they started, jackpots from dense to sparse.

    Raises:
        InputError: The folder is missing, or a file in it cannot be understood; the message
            names the file.
    """
    if not folder.is_dir():
        raise InputError(f"run folder {folder}: expected a folder, found none")
    recipe_text, recipe = _read_recipe(folder / RECIPE_FILE)
    files = sorted(folder.glob(f"*/{STAGE_FILE}"))
    found = [(file, _read_stage(file)) for file in files]
    # The record of the page itself would change the page each time it is written.
    pairs = [(file, stage) for file, stage in found if stage.kind != "report"]
    pairs.sort(key=lambda pair: (pair[1].started or "9", pair[1].name))
    done = [(file, stage) for file, stage in pairs if stage.status == "done"]
    jackpots = []
    for file, stage in done:
        if stage.kind == "jackpot":
            figures = _parse(JackpotFigures, stage.figures, file)
            jackpots.append(Jackpot(stage.name, _sparsity(figures, file), figures))
    return Run(
        name=folder.resolve().name,
        recipe=recipe,
        recipe_text=recipe_text,
        stages=tuple(stage for _, stage in pairs),
        trainings=_of_kind("train", TrainFigures, done),
        jackpots=tuple(sorted(jackpots, key=lambda jackpot: (jackpot.sparsity, jackpot.stage))),
        exports=_of_kind("export", ExportFigures, done),
        evaluations=_of_kind("evaluate", EvaluateFigures, done),
        searches=_of_kind("rank", SearchFigures, done),
        correlations=_of_kind("correlate", CorrelateFigures, done),
    )


def _of_kind(kind: str, model: type[Any], done: list[tuple[Path, Stage]]) -> tuple[Any, ...]:
    return tuple(
        (stage.name, _parse(model, stage.figures, file))
        for file, stage in done
        if stage.kind == kind
    )


def _sparsity(figures: JackpotFigures, file: Path) -> float:
    """The sparsity that was asked for; older files may only tell the density."""
    if figures.sparsity is not None:
        sparsity = figures.sparsity
    elif figures.density is not None:
        sparsity = 1 - figures.density
    else:
        raise InputError(f"{file}: figures.sparsity: expected a number in [0, 1), found none")
    if sparsity >= 1:
        raise InputError(f"{file}: figures.sparsity: expected a number in [0, 1), got {sparsity}")
    return sparsity


def _read_recipe(file: Path) -> tuple[str, dict[str, Any] | None]:
    if not file.is_file():
        return "", None
    text = _read_text(file)
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: expected YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{file}: expected a mapping, got {type(recipe).__name__}")
    return text, recipe


def _read_stage(file: Path) -> Stage:
    try:
        content = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: expected JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected an object, got {type(content).__name__}")
    stage: Stage = _parse(Stage, content, file)
    return stage


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text: {error}") from error


def _parse(model: type[Any], content: dict[str, Any], file: Path) -> Any:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        prefix = "" if model is Stage else "figures."
        raise InputError(
            f"{file}: {prefix}{place}: {first['msg']}, got {first['input']!r:.80}"
        ) from error
