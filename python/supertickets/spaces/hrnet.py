"""The space ``hrnet``: its nets by name, their checked options, and how one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from torch import nn

from supertickets.errors import ConfigError, did_you_mean
from supertickets.spaces.hrnet_block import NormOptions
from supertickets.spaces.hrnet_net import Hrnet, block_maker
from supertickets.spaces.initialise import initialise_mnas_, initialise_normal_
from supertickets.tasks import TaskName

# the bounds keep a mistyped or hostile number from filling the memory before shapes are compared
_Channels = Annotated[int, Field(ge=1, le=8192, strict=True)]
_Blocks = Annotated[int, Field(ge=0, le=64, strict=True)]
_Atoms = Annotated[int, Field(ge=0, le=65536, strict=True)]
_Stride = Literal[1, 2]
_MOST = 16


class _HrnetOptions(BaseModel, extra="forbid"):
    """What can be said about a net; ``blocks`` is what a search has left of it."""

    head: TaskName
    stem: Annotated[tuple[tuple[_Channels, _Stride], ...], Field(min_length=1, max_length=_MOST)]
    stages: Annotated[
        tuple[
            Annotated[tuple[tuple[_Blocks, _Channels], ...], Field(min_length=1, max_length=_MOST)],
            ...,
        ],
        Field(min_length=1, max_length=_MOST),
    ]
    head_channels: tuple[_Channels, ...] = ()
    last_channels: _Channels
    dropout: float = Field(default=0.2, ge=0, lt=1)
    kernels: Annotated[
        tuple[Annotated[int, Field(ge=1, le=15, strict=True)], ...], Field(min_length=1)
    ] = (3, 5, 7)
    expansion: float = Field(default=4.0, gt=0, le=64, allow_inf_nan=False)
    transformer: Annotated[bool, Field(strict=True)] = False
    tokens: Annotated[int, Field(ge=1, le=1024, strict=True)] = 64
    bn_momentum: float = Field(default=0.1, gt=0, le=1)
    bn_eps: float = Field(default=1e-5, gt=0, le=1)
    init: Literal["mnas", "normal"] = "mnas"
    blocks: dict[str, dict[str, _Atoms]] | None = None

    @field_validator("kernels")
    @classmethod
    def _odd(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(kernel % 2 == 0 for kernel in value) or len(set(value)) < len(value):
            raise ValueError("kernel sizes must be odd and different")
        return value

    @field_validator("blocks")
    @classmethod
    def _kernel_sizes(
        cls, value: dict[str, dict[str, int]] | None
    ) -> dict[str, dict[str, int]] | None:
        for name, atoms in (value or {}).items():
            for kernel in atoms:
                if not kernel.isdecimal() or int(kernel) % 2 == 0 or int(kernel) > 15:
                    raise ValueError(f"block {name!r}: {kernel!r} is no odd kernel size up to 15")
        return value

    @model_validator(mode="after")
    def _branches_fit(self) -> _HrnetOptions:
        branches = [len(stage) for stage in self.stages]
        if branches != sorted(branches):
            raise ValueError(f"stages must not lose branches, got {branches}")
        wanted = branches[-1] if self.head == "classification" else 0
        if len(self.head_channels) != wanted:
            raise ValueError(
                f"head_channels must give {wanted} numbers for head {self.head!r} on "
                f"{branches[-1]} branches, got {len(self.head_channels)}"
            )
        return self


_STEM = ((24, 2), (24, 2))
_STAGES = (
    ((1, 24),),
    ((2, 18), (2, 36)),
    ((2, 18), (2, 36), (3, 72)),
    ((2, 18), (2, 36), (3, 72), (4, 144)),
    ((2, 18), (2, 36), (3, 72), (4, 144)),
)
_PUBLISHED: dict[str, Any] = {
    "stem": _STEM,
    "stages": _STAGES,
    "bn_momentum": 0.01,
    "bn_eps": 1e-3,
}
_SMALL: dict[str, Any] = {
    "stem": ((12, 2),),
    "stages": (((1, 12), (1, 20)), ((1, 12), (1, 20), (1, 32))),
    "expansion": 2.0,
    "dropout": 0.0,
}

_NETS: dict[str, dict[str, Any]] = {
    "hrnet-imagenet": {
        **_PUBLISHED,
        "head": "classification",
        "head_channels": (36, 72, 144, 320),
        "last_channels": 1600,
    },
    "hrnet-cityscapes": {**_PUBLISHED, "head": "segmentation", "last_channels": 90},
    "hrnet-ade20k": {**_PUBLISHED, "head": "segmentation", "last_channels": 180},
    "hrnet-coco": {
        **_PUBLISHED,
        "head": "keypoints",
        "last_channels": 90,
        "bn_momentum": 0.1,
        "bn_eps": 1e-5,
        "init": "normal",
    },
    "hrnet-small-cls": {
        **_SMALL,
        "head": "classification",
        "head_channels": (16, 24, 32),
        "last_channels": 96,
    },
    "hrnet-small-seg": {**_SMALL, "head": "segmentation", "last_channels": 32},
    "hrnet-small-pose": {**_SMALL, "head": "keypoints", "last_channels": 32},
}


def hrnet_names() -> tuple[str, ...]:
    """Name every net of the space."""
    return tuple(_NETS)


def check_hrnet(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check a net's name and options.

    Args:
        name: One of :func:`hrnet_names`.
        options: What the user set.

    Returns:
        All options, checked.

    Raises:
        ConfigError: Something is unknown (the nearest known one is named) or out of range.
    """
    if name not in _NETS:
        raise ConfigError(f"model.name: no net {name!r} in hrnet{did_you_mean(name, _NETS)}")
    known = _HrnetOptions.model_fields
    for option in options:
        if option not in known:
            raise ConfigError(
                f"model.options: {name} has no option {option!r}{did_you_mean(option, known)}"
            )
    try:
        return _HrnetOptions.model_validate({**_NETS[name], **options}).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"model.options.{where} of {name}: {message}") from error


def hrnet_for_task(name: str, options: Mapping[str, Any], task: TaskName) -> dict[str, Any]:
    """Give a net's options with the head of another task; the blocks before the head stay.

    Args:
        name: One of :func:`hrnet_names`.
        options: What the net was built with.
        task: What it is to do.

    Returns:
        The options. A head that gives maps serves segmentation and keypoints alike, and keeps its
        blocks; any other new head is that of the published net of its task, not searched yet.
    """
    checked = check_hrnet(name, options)
    if checked["head"] == task:
        return dict(options)
    new = {**options, "head": task}
    if "classification" not in (checked["head"], task):
        return new
    small = _NETS[name]["stages"] is _SMALL["stages"]
    family = (net for net in _NETS.values() if (net["stages"] is _SMALL["stages"]) == small)
    model = next(net for net in family if net["head"] == task)
    new["last_channels"] = model["last_channels"]
    branches = len(checked["stages"][-1])
    channels = model.get("head_channels", ())
    new["head_channels"] = (*channels, *channels[-1:] * branches)[:branches] if channels else ()
    if checked["blocks"] is not None:
        blocks = checked["blocks"].items()
        new["blocks"] = {block: atoms for block, atoms in blocks if not block.startswith("head.")}
    return new


def build_hrnet(
    name: str,
    options: Mapping[str, Any],
    *,
    num_classes: int,
    channels: int,
    generator: torch.Generator,
) -> nn.Module:
    """Build a net and draw its weights.

    Args:
        name: One of :func:`hrnet_names`.
        options: What the user set; with ``blocks``, the net that a search has left.
        num_classes: Outputs: classes, or key points.
        channels: Input channels.
        generator: Decides the weights; not used on the device ``meta``.

    Raises:
        ConfigError: The name, an option or a block's name is wrong.
    """
    checked = check_hrnet(name, options)
    norm = NormOptions(checked["bn_momentum"], checked["bn_eps"])
    made: set[str] = set()
    net = Hrnet(
        stem=checked["stem"],
        stages=checked["stages"],
        head=checked["head"],
        head_channels=checked["head_channels"],
        last_channels=checked["last_channels"],
        dropout=checked["dropout"],
        num_classes=num_classes,
        channels=channels,
        norm=norm,
        make_block=block_maker(
            checked["kernels"],
            checked["expansion"],
            norm,
            tokens=checked["tokens"] if checked["transformer"] else 0,
            blocks=checked["blocks"],
            made=made,
        ),
    )
    for block in checked["blocks"] or {}:
        if block not in made:
            raise ConfigError(
                f"model.options.blocks: {name} has no block {block!r}{did_you_mean(block, made)}"
            )
    if next(net.parameters()).device.type != "meta":
        draw = initialise_mnas_ if checked["init"] == "mnas" else initialise_normal_
        draw(net, generator)
    return net
