"""The registry of plain nets and their checked options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError
from torch import nn

from supertickets.errors import ConfigError, did_you_mean
from supertickets.spaces.cifar_resnet import CifarResNet
from supertickets.spaces.resnet import ResNet
from supertickets.spaces.vgg import digits_net, vgg_bn
from supertickets.tasks import TaskName

# the bounds keep a mistyped or hostile number from filling the memory before shapes are compared
_Width = Annotated[int, Field(ge=1, le=4096, strict=True)]
_Blocks = Annotated[int, Field(ge=1, le=1000, strict=True)]


class _Options(BaseModel):
    """What every plain net can be told."""

    width: _Width


class _DigitsOptions(_Options):
    width: _Width = 32


class _CifarResNetOptions(_Options):
    num_blocks: tuple[_Blocks, _Blocks, _Blocks]
    task: TaskName = "classification"


class _VggOptions(_Options):
    width: _Width = 64
    num_blocks: tuple[_Blocks, _Blocks, _Blocks, _Blocks, _Blocks] = (2, 2, 4, 4, 4)


class _ResNetOptions(_Options):
    width: _Width = 64
    num_blocks: tuple[_Blocks, _Blocks, _Blocks, _Blocks]
    bottleneck: bool
    small_input: Annotated[bool, Field(strict=True)] = False
    task: TaskName = "classification"


@dataclass(frozen=True)
class _PlainNet:
    """How to build one net: its factory, its options, and the options that its name settles."""

    factory: Callable[..., nn.Module]
    options: type[_Options]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]


def _net(
    factory: Callable[..., nn.Module],
    options: type[_Options],
    fixed: Mapping[str, Any] | None = None,
    **defaults: Any,
) -> _PlainNet:
    return _PlainNet(factory, options, defaults, fixed or {})


_NETS: dict[str, _PlainNet] = {
    "digits": _net(digits_net, _DigitsOptions),
    "resnet20": _net(CifarResNet, _CifarResNetOptions, width=16, num_blocks=(3, 3, 3)),
    "resnet20x2": _net(CifarResNet, _CifarResNetOptions, width=32, num_blocks=(3, 3, 3)),
    "resnet32": _net(CifarResNet, _CifarResNetOptions, width=16, num_blocks=(5, 5, 5)),
    "resnet32x2": _net(CifarResNet, _CifarResNetOptions, width=32, num_blocks=(5, 5, 5)),
    "vgg19_bn": _net(vgg_bn, _VggOptions),
    "resnet18": _net(ResNet, _ResNetOptions, {"bottleneck": False}, num_blocks=(2, 2, 2, 2)),
    "resnet50": _net(ResNet, _ResNetOptions, {"bottleneck": True}, num_blocks=(3, 4, 6, 3)),
}


def plain_names() -> tuple[str, ...]:
    """Name every plain net."""
    return tuple(_NETS)


def gives_maps(name: str) -> bool:
    """Say whether a plain net can have a head for segmentation and keypoints."""
    return name in _NETS and "task" in _NETS[name].options.model_fields


def check_plain(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check a net's name and options.

    Args:
        name: One of :func:`plain_names`.
        options: What the user set.

    Returns:
        Every keyword argument of the net's factory besides ``num_classes`` and ``channels``.

    Raises:
        ConfigError: An unknown name or option (the nearest known one is named), or a bad value.
    """
    if name not in _NETS:
        raise ConfigError(f"model.name: no plain net {name!r}{did_you_mean(name, _NETS)}")
    net = _NETS[name]
    known = net.options.model_fields.keys() - net.fixed.keys()
    for option in options:
        if option not in known:
            raise ConfigError(
                f"model.options: {name} has no option {option!r}{did_you_mean(option, known)}"
            )
    try:
        checked = net.options.model_validate({**net.defaults, **options, **net.fixed})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"model.options.{where} of {name}: {first['msg']}, got {first['input']!r}"
        ) from error
    return checked.model_dump()


def build_plain(
    name: str, options: Mapping[str, Any], *, num_classes: int, channels: int
) -> nn.Module:
    """Build a plain net; weights come from torch's global generator.

    Args:
        name: One of :func:`plain_names`.
        options: What the user set.
        num_classes: Size of the output.
        channels: Input channels.

    Returns:
        The net in training mode, initialised as torch does.

    Raises:
        ConfigError: The name or an option is wrong.
    """
    arguments = check_plain(name, options)
    return _NETS[name].factory(num_classes=num_classes, channels=channels, **arguments)
