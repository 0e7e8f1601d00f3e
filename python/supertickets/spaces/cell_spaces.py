"""The cell-based spaces by name, and their networks as tickets describe them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError
from torch import nn

from supertickets.errors import ConfigError, InputError, did_you_mean
from supertickets.spaces.candidate import CellSpace
from supertickets.spaces.darts import Darts
from supertickets.spaces.darts_genotype import GENOTYPES
from supertickets.spaces.hrnet import hrnet_names
from supertickets.spaces.mbconv_text import is_mbconv
from supertickets.spaces.nasbench201 import NasBench201

# the bounds keep a mistyped or hostile number from filling the memory before shapes are compared
_Width = Annotated[int, Field(ge=1, le=1024, strict=True)]
_Count = Annotated[int, Field(ge=1, le=100, strict=True)]
_Share = Annotated[float, Field(ge=0, lt=1)]


class _NasBench201Options(BaseModel, extra="forbid"):
    width: _Width = 16
    cells: _Count = 5


class _DartsOptions(BaseModel, extra="forbid"):
    imagenet: Annotated[bool, Field(strict=True)] = False
    width: Annotated[int, Field(ge=2, le=1024, strict=True)] | None = None
    layers: Annotated[int, Field(ge=3, le=100, strict=True)] | None = None
    auxiliary: Annotated[bool, Field(strict=True)] = False
    drop_path: _Share = 0.0


_SPACES: dict[str, CellSpace] = {"nasbench201": NasBench201(), "darts": Darts()}
_OPTIONS: dict[str, type[BaseModel]] = {"nasbench201": _NasBench201Options, "darts": _DartsOptions}


def cell_space(name: str) -> CellSpace:
    """Give a cell-based space.

    Raises:
        ConfigError: There is none of that name; the nearest is named.
    """
    if name not in _SPACES:
        raise ConfigError(f"no space {name!r}{did_you_mean(name, _SPACES)}")
    return _SPACES[name]


def cell_space_names() -> tuple[str, ...]:
    """Name every cell-based space."""
    return tuple(_SPACES)


def space_of(model: str) -> str:
    """Say which space a network's name belongs to.

    Args:
        model: A plain net, ``"package.module:factory"``, a NAS-Bench-201 string, a DARTS genotype
            (spelled or by name), a path of the space ``mbconv`` (spelled or by name), or a net of
            the space ``hrnet``.

    Returns:
        ``"import"``, ``"nasbench201"``, ``"darts"``, ``"mbconv"``, ``"hrnet"`` or ``"plain"``.
    """
    text = model.strip()
    if text in hrnet_names():
        return "hrnet"
    if text.startswith("|"):
        return "nasbench201"
    if text in GENOTYPES or text.startswith(("Genotype(", "{")):
        return "darts"
    if is_mbconv(text):
        return "mbconv"
    return "import" if ":" in text else "plain"


def check_cell_net(space: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check an architecture and the options of its evaluation network.

    Args:
        space: One of :func:`cell_space_names`.
        name: The architecture as the field writes it.
        options: What the user set.

    Returns:
        Every keyword argument of the network besides ``num_classes`` and ``channels``.

    Raises:
        ConfigError: Something is unknown or out of range.
    """
    try:
        cell_space(space).parse(name)
    except InputError as error:
        raise ConfigError(f"model.name: {error}") from error
    known = _OPTIONS[space].model_fields
    for option in options:
        if option not in known:
            raise ConfigError(
                f"model.options: {space} has no option {option!r}{did_you_mean(option, known)}"
            )
    try:
        return _OPTIONS[space].model_validate(dict(options)).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"model.options.{where} of {space}: {first['msg']}, got {first['input']!r}"
        ) from error


def build_cell_net(
    space: str, name: str, options: Mapping[str, Any], *, num_classes: int, channels: int
) -> nn.Module:
    """Build an evaluation network; weights come from torch's global generator.

    Args:
        space: One of :func:`cell_space_names`.
        name: The architecture as the field writes it.
        options: What the user set.
        num_classes: Size of the output.
        channels: Input channels.

    Raises:
        ConfigError: The name, an option or a size is wrong.
    """
    arguments = check_cell_net(space, name, options)
    found = cell_space(space)
    return found.network(found.parse(name), num_classes=num_classes, channels=channels, **arguments)
