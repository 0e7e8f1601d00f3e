"""Paths of the mbconv space as text, and the networks that tickets describe by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from supertickets.errors import ConfigError, InputError
from supertickets.spaces.choice_net import Path
from supertickets.spaces.mbconv import MBConvOptions, MBConvSpace, check_options
from supertickets.spaces.mbconv_blocks import check_operation
from supertickets.spaces.mbconv_released import OPERATIONS, RELEASED


class NetworkOptions(MBConvOptions):
    """What a network on its own can be told.

    Attributes:
        features_only: Give feature maps at strides 4, 8, 16 and 32 in place of logits.
    """

    features_only: Annotated[bool, Field(strict=True)] = False


def is_mbconv(text: str) -> bool:
    """Say whether a network's name is a path of this space."""
    stages = text.strip().split("|")
    return text.strip() in RELEASED or (len(stages) > 1 and all(stages))


def path_space(
    text: str,
    *,
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    options: Mapping[str, Any] | None = None,
) -> tuple[MBConvSpace, Path]:
    """Read an architecture that brings its own depths, such as ``k5e6|k5e6,k3e6|k5e6,k5e6``.

    Args:
        text: Operations by name, ``,`` between layers and ``|`` between stages; indices of the
            paper's six operations in the place of names; or a released architecture such as
            ``cream_287``, which is the network of the authors' code (:attr:`Released.built`).
        num_classes: Size of the output.
        channels: Of the images.
        image_size: Height and width of the images.
        options: See :class:`MBConvOptions`.

    Returns:
        The space of these depths and of the operations that occur, and the path in it.

    Raises:
        ConfigError: An option is unknown or out of range.
        InputError: The text is no architecture of as many stages as the options say.
    """
    text = text.strip()
    released = RELEASED.get(text)
    if released is None and text.startswith("cream_"):
        raise InputError(f"mbconv: no architecture {text!r}; known: {', '.join(RELEASED)}")
    stages = [
        [_operation(word.strip()) for word in stage.split(",")]
        for stage in (released.built if released else text).split("|")
    ]
    space = MBConvSpace(
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        depths=[len(stage) for stage in stages],
        operations=list(dict.fromkeys(name for stage in stages for name in stage)),
        options=check_options(options or {}, MBConvOptions),
    )
    return space, space.parse("|".join(",".join(stage) for stage in stages))


def check_mbconv_net(name: str, options: Mapping[str, Any]) -> None:
    """Check an architecture and the options of its network.

    Raises:
        ConfigError: Something is unknown or out of range.
    """
    _read(name, options, num_classes=1, channels=1)


def build_mbconv_net(
    name: str, options: Mapping[str, Any], *, num_classes: int, channels: int
) -> nn.Module:
    """Build a network on its own; the weights are those that its modules start with.

    Args:
        name: See :func:`path_space`.
        options: See :class:`NetworkOptions`.
        num_classes: Size of the output.
        channels: Of the images.

    Raises:
        ConfigError: The name, an option or a size is wrong.
    """
    space, path, checked = _read(name, options, num_classes=num_classes, channels=channels)
    net = space.network(path)
    return net.backbone() if checked.features_only else net


def _read(
    name: str, options: Mapping[str, Any], *, num_classes: int, channels: int
) -> tuple[MBConvSpace, Path, NetworkOptions]:
    checked = check_options(options, NetworkOptions)
    try:
        space, path = path_space(
            name,
            num_classes=num_classes,
            channels=channels,
            image_size=(1, 1),  # the network does not depend on it
            options=checked.model_dump(include=set(MBConvOptions.model_fields)),
        )
    except InputError as error:
        raise ConfigError(f"model.name: {error}") from error
    return space, path, checked


def _operation(word: str) -> str:
    if word.isdecimal() and int(word) < len(OPERATIONS):
        return OPERATIONS[int(word)]
    check_operation(word)
    return word
