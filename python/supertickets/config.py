"""One recipe for a whole run: typed, defaulted, and validated before any work starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from supertickets.data import DataConfig
from supertickets.distill import SupernetConfig
from supertickets.errors import ConfigError, did_you_mean
from supertickets.prune import JackpotConfig
from supertickets.rank.settings import RankConfig
from supertickets.search.config import TwoInOneConfig
from supertickets.spaces import ModelConfig
from supertickets.training import TrainConfig
from supertickets.transfer.config import TransferConfig

ExportFormat = Literal["state-dict", "torch.export", "onnx"]

_OVERRIDE = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_][\w-]*)*=")
_EXPORT_NEAR = 0.9


class JackpotSection(JackpotConfig, extra="forbid"):
    """The options of the mask search; ``sparsities`` stands in the place of ``sparsity``."""

    sparsity: float = Field(default=0.9, exclude=True)
    sparsities: tuple[float, ...] = Field(default=(0.8, 0.9, 0.95, 0.98), min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "sparsity" in value:
            raise ValueError("a recipe lists 'sparsities', such as [0.9]; 'sparsity' is not a key")
        return value

    @field_validator("sparsities")
    @classmethod
    def _in_range(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for sparsity in value:
            if not 0 <= sparsity < 1:
                raise ValueError(f"each sparsity must be in [0, 1), got {sparsity}")
        if len(set(value)) != len(value):
            raise ValueError(f"each sparsity may stand once, got {list(value)}")
        return value

    def at(self, sparsity: float) -> JackpotConfig:
        """Give the options of the search at one sparsity."""
        options = self.model_dump(exclude={"sparsities"})
        return JackpotConfig(**{**options, "sparsity": sparsity})


class SupernetSection(SupernetConfig, extra="forbid"):
    """One-shot search: the space, the supernet's training, and what becomes of the found path."""

    enabled: bool = False
    """Whether the run's network is searched; it then stands in the place of ``model``."""
    space: Literal["mbconv"] = "mbconv"
    depths: tuple[int, ...] | None = None
    """Layers of each stage; none: the preset's."""
    operations: tuple[str, ...] | None = None
    """What may stand in a layer; none: the preset's."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of the networks, such as ``preset`` and ``width``."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """How the supernet is trained."""
    channels_last: bool = False
    bn_batches: int = Field(default=32, ge=1)
    """Training batches that give a path its batch-norm statistics before it is scored."""
    weights: Literal["retrain", "inherit"] = "retrain"
    """Whether the found path is trained from scratch, with the options of ``train``."""

    @property
    def search_config(self) -> SupernetConfig:
        """The options of board and teacher alone."""
        return SupernetConfig(**self.model_dump(include=set(SupernetConfig.model_fields)))

    @model_validator(mode="after")
    def _own_loss(self) -> SupernetSection:
        if self.train.label_smoothing:
            raise ValueError(
                "supernet.train.label_smoothing: set supernet.label_smoothing, which is the same "
                "for all paths"
            )
        if self.train.keep == "best":
            raise ValueError("supernet.train.keep: a supernet is not scored by epoch, take 'last'")
        return self


class TicketSection(TwoInOneConfig, extra="forbid"):
    """The options of searching and pruning in one training, and of the training after it."""

    retrain_epochs: int = Field(default=0, ge=0)
    """Epochs of weight training with architecture and masks fixed; 0: none."""
    retrain_lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Learning rate of that training, on a cosine; none: a tenth of train.lr."""

    def two_in_one(self) -> TwoInOneConfig:
        """Give the options without those of the training after it."""
        names = TwoInOneConfig.model_fields
        return TwoInOneConfig(**{name: getattr(self, name) for name in names})


class ExportSection(BaseModel, extra="forbid"):
    """Which ticket is exported, and how."""

    sparsity: float | None = None
    """The exported jackpot; none: the one nearest to 90 %."""
    formats: tuple[ExportFormat, ...] = ("state-dict", "torch.export")
    """Always written."""
    if_installed: tuple[ExportFormat, ...] = ("onnx",)
    """Written where their optional packages are installed; a skipped one is recorded."""


class EvaluateSection(BaseModel, extra="forbid"):
    """The check of every saved ticket in a process of its own."""

    enabled: bool = True
    batch_size: int = Field(default=256, ge=1)
    timing_repeats: int = Field(default=30, ge=2)
    """Timed forward passes of one image per ticket."""


class ReportSection(BaseModel, extra="forbid"):
    """The page at the end of a run."""

    enabled: bool = True


class Recipe(BaseModel, extra="forbid"):
    """Everything that decides a run."""

    name: str = Field(default="digits", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "cpu"
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads of the kernels; 0: as many as torch takes."""
    tensorboard: bool = False
    """Whether the curves are also written for TensorBoard, into each stage's folder."""
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    rank: RankConfig = Field(default_factory=RankConfig)
    supernet: SupernetSection = Field(default_factory=SupernetSection)
    jackpot: JackpotSection = Field(default_factory=JackpotSection)
    ticket: TicketSection = Field(default_factory=TicketSection)
    transfer: TransferConfig = Field(default_factory=TransferConfig)
    """How a ticket is brought to ``data``; ``train`` says how it is trained there."""
    export: ExportSection = Field(default_factory=ExportSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    report: ReportSection = Field(default_factory=ReportSection)

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
            raise ValueError(f"expected cpu, cuda or cuda:<index>, got {value!r}")
        return value

    @model_validator(mode="after")
    def _exported_is_searched(self) -> Recipe:
        wanted = self.export.sparsity
        if wanted is not None and wanted not in self.jackpot.sparsities:
            raise ValueError(
                f"export.sparsity: expected one of {list(self.jackpot.sparsities)}, got {wanted}"
            )
        return self

    @property
    def exported_sparsity(self) -> float:
        """The sparsity of the ticket that is exported."""
        if self.export.sparsity is not None:
            return self.export.sparsity
        return min(self.jackpot.sparsities, key=lambda sparsity: abs(sparsity - _EXPORT_NEAR))

    def to_yaml(self) -> str:
        """Write the resolved recipe; reading it back gives an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100)


def recipe_names() -> list[str]:
    """List the recipes that come with the package."""
    folder = resources.files("supertickets") / "recipes"
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def is_override(text: str) -> bool:
    """Tell ``key=value`` from a path."""
    return bool(_OVERRIDE.match(text)) and not Path(text).exists()


def load_recipe(
    source: Path | None = None,
    *,
    recipe: str = "digits",
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """Resolve a recipe: file or embedded recipe, then options, then overrides.

    Where these set another ``data.name`` or ``model.name``, the rest of that section starts from
    its defaults: the path of one data set or the width of one network is none of the other's.

    Args:
        source: A YAML file; it stands on the defaults, not on the embedded recipe.
        recipe: Name of the embedded recipe, read where there is no ``source``.
        overrides: ``"jackpot.epochs=5"``; the value is read as YAML. The last one wins.
        options: Dotted key to value, as given by command-line options; ``None`` is "not given".

    Returns:
        The recipe, valid as a whole.

    Raises:
        ConfigError: The file, a key or a value is wrong; every wrong one is named.
    """
    tree = _read_yaml(source) if source is not None else _read_embedded(recipe)
    given = [(key, value) for key, value in (options or {}).items() if value is not None]
    given += map(_parse_override, overrides)
    _clear_renamed(tree, dict(given))
    for key, value in given:
        _set(tree, key, value)
    return validate_recipe(tree)


def validate_recipe(tree: Mapping[str, Any]) -> Recipe:
    """Turn a tree of plain values into a recipe.

    Args:
        tree: Nested mappings, as read from YAML.

    Returns:
        The recipe.

    Raises:
        ConfigError: One line per wrong key or value.
    """
    try:
        return Recipe.model_validate(dict(tree))
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def known_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """List the dotted keys that a recipe may hold."""
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        key = f"{prefix}{name}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from known_keys(kind, f"{key}.")
        else:
            yield key


def _read_embedded(name: str) -> dict[str, Any]:
    names = recipe_names()
    if name not in names:
        raise ConfigError(f"recipe: no embedded recipe {name!r}{did_you_mean(name, names)}")
    text = (resources.files("supertickets") / "recipes" / f"{name}.yaml").read_text("utf-8")
    return _parse_yaml(text, f"recipe {name}")


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"config: expected a YAML file, found none at {str(path)!r}")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: cannot read {str(path)!r}: {error}") from error
    return _parse_yaml(text, str(path))


def _parse_yaml(text: str, origin: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{origin}{where}: not valid YAML: {problem}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{origin}: expected a mapping of keys, got {type(tree).__name__}")
    return tree


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML silently keeps the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"override: expected key=value, such as jackpot.epochs=5, got {text!r}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: cannot read the value {value!r} as YAML") from error


def _clear_renamed(tree: dict[str, Any], given: Mapping[str, Any]) -> None:
    for section in ("data", "model"):
        old, name = tree.get(section), given.get(f"{section}.name")
        if isinstance(old, dict) and name is not None and old.get("name") != name:
            del tree[section]


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *folders, leaf = key.split(".")
    for depth, folder in enumerate(folders):
        below = tree.setdefault(folder, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{key}: {'.'.join(folders[: depth + 1])!r} holds no keys")
        tree = below
    tree[leaf] = value


def _explain(detail: ErrorDetails) -> str:
    """Put one pydantic error into one line that names key, expected and given."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest_key(key, list(known_keys()))}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        # A section's own check may name the key already, with or without its section.
        return message if not key or message.startswith(key) else f"{key}: {message}"
    message = re.sub(r"^(Input|String|Value) should ", "expected to ", message)
    message = message.replace("expected to be ", "expected ").replace(
        "expected to have", "expected"
    )
    return f"{key}: {message}, got {detail['input']!r}"


def _nearest_key(key: str, known: Iterable[str]) -> str:
    """Look among the keys of the same section first, then among all."""
    known = list(known)
    section, _, leaf = key.rpartition(".")
    prefix = f"{section}." if section else ""
    depth = prefix.count(".")
    siblings = {k.split(".")[depth] for k in known if k.startswith(prefix)}
    if get_close_matches(leaf, siblings, n=1):
        near = get_close_matches(leaf, sorted(siblings), n=1)[0]
        return f"; did you mean {prefix + near!r}?"
    same_leaf = [k for k in known if k.rpartition(".")[2] == leaf]
    if same_leaf:
        return f"; did you mean {same_leaf[0]!r}?"
    anywhere = get_close_matches(key, known, n=1)
    if anywhere:
        return f"; did you mean {anywhere[0]!r}?"
    return f"; known in {section or 'a recipe'}: {', '.join(sorted(siblings))}"
