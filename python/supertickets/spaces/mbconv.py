"""The space of Cream: five stages of inverted bottlenecks (Peng et al. 2020, arXiv 2010.15821)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import nn

from supertickets.errors import ConfigError, InputError, did_you_mean
from supertickets.spaces.choice import ChoiceLayer, ChoiceSpace
from supertickets.spaces.choice_sampling import PathCosts
from supertickets.spaces.mbconv_blocks import (
    BOTTLENECK,
    SKIP,
    Shape,
    Style,
    build_operation,
    check_operation,
    divisible,
    operation_cost,
)
from supertickets.spaces.mbconv_net import MBConvNet, Plan
from supertickets.spaces.mbconv_released import OPERATIONS

HARDER = (*OPERATIONS, "k3d2", "k5d2", BOTTLENECK)

# the bounds keep a mistyped or hostile number from filling the memory before shapes are compared
_Channels = Annotated[int, Field(ge=8, le=4096, multiple_of=8, strict=True)]
_Stride = Annotated[int, Field(ge=1, le=2, strict=True)]
_MAX_DEPTH = 20
_Stages = Field(min_length=1, max_length=10)


_PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "stem": 16,
        "stem_stride": 2,
        "channels": (24, 40, 80, 96, 192),
        "strides": (2, 2, 2, 1, 2),
        "last": 320,
        "features": 1280,
        "se_ratio": 0.25,
        "activation": "swish",
    },
    "digits": {
        "stem": 8,
        "stem_stride": 1,
        "channels": (16, 24, 32),
        "strides": (1, 2, 2),
        "last": 64,
        "features": 64,
        "se_ratio": 0.0,
        "activation": "relu",
    },
}
_SPACES: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "imagenet": ((4, 4, 5, 4, 4), OPERATIONS),
    "digits": ((1, 2, 1), ("k1e1", "k3e2", "k3e4", BOTTLENECK)),
}


class MBConvOptions(BaseModel, extra="forbid"):
    """What a network of the space can be told; what is left out comes from the preset.

    Attributes:
        preset: ``imagenet``, the paper's stages; or ``digits``, small ones for small images.
        width: Multiplies all channels but those of the features, rounded to multiples of 8.
        stem: Channels of the first convolution.
        stem_stride: Its stride.
        channels: Of each stage.
        strides: Of each stage's first layer.
        last: Channels after the stages.
        features: Channels that the classifier reads.
        se_ratio: Of squeeze and excitation; 0: none.
        activation: ``swish`` or ``relu``.
        dropout: Before the classifier.
    """

    preset: Literal["imagenet", "digits"] = "imagenet"
    width: Annotated[float, Field(gt=0, le=16)] = 1.0
    stem: _Channels | None = None
    stem_stride: _Stride | None = None
    channels: Annotated[tuple[_Channels, ...], _Stages] | None = None
    strides: Annotated[tuple[_Stride, ...], _Stages] | None = None
    last: _Channels | None = None
    features: _Channels | None = None
    se_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    activation: Literal["swish", "relu"] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def plan(self) -> Plan:
        """Fill in the preset.

        Raises:
            ConfigError: Channels and strides are of different numbers of stages.
        """
        given = self.model_dump(include=set(_PRESETS["imagenet"]), exclude_none=True)
        chosen = {**_PRESETS[self.preset], **given}
        if len(chosen["channels"]) != len(chosen["strides"]):
            raise ConfigError(
                f"mbconv: expected as many strides as channels, got {chosen['strides']} and "
                f"{chosen['channels']}"
            )
        for key in ("stem", "last"):
            chosen[key] = divisible(chosen[key] * self.width)
        chosen["channels"] = tuple(divisible(c * self.width) for c in chosen["channels"])
        style = Style(chosen.pop("se_ratio"), chosen.pop("activation"))
        return Plan(**chosen, style=style, dropout=self.dropout)


Options = TypeVar("Options", bound=MBConvOptions)


class MBConvSpace(ChoiceSpace):
    """A choice of operation in every layer of every stage.

    Args:
        num_classes: Size of the output.
        channels: Of the images.
        image_size: Height and width of the images; MACs depend on them, weights do not.
        depths: Layers of each stage.
        operations: Names of the operations, in the order of their indices. ``skip`` is left out
            where a layer changes shapes.
        options: See :class:`MBConvOptions`.

    Raises:
        InputError: Unknown or repeated operations, depths of other stages, sizes below 1.
    """

    name = "mbconv"

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        image_size: tuple[int, int],
        depths: Sequence[int],
        operations: Sequence[str] = OPERATIONS,
        options: MBConvOptions | None = None,
    ) -> None:
        self.options = options or MBConvOptions()
        self.plan = self.options.plan()
        _check_sizes(num_classes, channels, image_size)
        _check_layers(depths, operations, len(self.plan.channels))
        self.num_classes, self.channels = num_classes, channels
        self.image_size = image_size
        self.shapes = self.plan.shapes(depths, image_size)
        names = [f"stage{s}.{i}" for s, depth in enumerate(depths, 1) for i in range(depth)]
        self.layers = tuple(
            ChoiceLayer(name, tuple(o for o in operations if o != SKIP or shape.keeps))
            for name, shape in zip(names, self.shapes, strict=True)
        )
        for layer in self.layers:
            if not layer.operations:
                raise InputError(
                    f"mbconv: layer {layer.name} changes shapes, so it needs an operation besides "
                    f"{SKIP!r}"
                )

    @property
    def macs_table(self) -> PathCosts:
        """Exact multiply-accumulates of an image."""
        return self._costs[0]

    @property
    def parameters_table(self) -> PathCosts:
        """Number of parameters."""
        return self._costs[1]

    def build_stem(self) -> nn.Module:
        """Build the first convolution and the fixed block after it."""
        return self.plan.build_stem(self.channels)

    def build_operation(self, layer: int, operation: int) -> nn.Module:
        """Build an operation of a layer, by its index."""
        name = self.layers[layer].operations[operation]
        return build_operation(name, self.shapes[layer], self.plan.style)

    def build_head(self) -> nn.Module:
        """Build what turns the last stage's output into logits."""
        return self.plan.build_head(self.num_classes)

    def assemble(self, stem: nn.Module, blocks: Sequence[nn.Module], head: nn.Module) -> MBConvNet:
        """Put the parts of a path together."""
        return MBConvNet(stem, blocks, head, stem_stride=self.plan.stem_stride, shapes=self.shapes)

    def network(self, path: Sequence[int], generator: torch.Generator | None = None) -> MBConvNet:
        """Build a path on its own; see :meth:`ChoiceSpace.network`."""
        net = super().network(path, generator)
        assert isinstance(net, MBConvNet), "assemble makes one"
        return net

    @cached_property
    def _costs(self) -> tuple[PathCosts, PathCosts]:
        """Give the tables of MACs and of parameters."""
        rows = [
            [operation_cost(o, shape, self.plan.style) for o in layer.operations]
            for layer, shape in zip(self.layers, self.shapes, strict=True)
        ]
        image = Shape(self.channels, self.plan.stem, self.plan.stem_stride, *self.image_size)
        fixed = self.plan.fixed_cost(self.shapes[-1], self.channels, self.num_classes, image)
        return (
            PathCosts(fixed.macs, tuple(tuple(c.macs for c in row) for row in rows)),
            PathCosts(fixed.parameters, tuple(tuple(c.parameters for c in row) for row in rows)),
        )


def mbconv_space(
    *,
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    depths: Sequence[int] | None = None,
    operations: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> MBConvSpace:
    """Make the space of a preset: the paper's for ImageNet, or 256 paths for 8x8 digits.

    Args:
        num_classes: Size of the output.
        channels: Of the images.
        image_size: Their height and width.
        depths: Layers of each stage; by default the preset's: 4, 4, 5, 4, 4 as in the paper's
            search around 481 million MACs, or 1, 2, 1 for digits.
        operations: By default the preset's; :data:`HARDER` is the paper's harder choice.
        options: See :class:`MBConvOptions`.

    Raises:
        ConfigError: An option is unknown or out of range.
        InputError: As :class:`MBConvSpace`.
    """
    checked = check_options(options or {}, MBConvOptions)
    preset_depths, preset_operations = _SPACES[checked.preset]
    return MBConvSpace(
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        depths=preset_depths if depths is None else depths,
        operations=preset_operations if operations is None else operations,
        options=checked,
    )


def check_options(options: Mapping[str, Any], kind: type[Options]) -> Options:
    """Check the options of a network of the space.

    Args:
        options: What the user set.
        kind: The options there are.

    Raises:
        ConfigError: An unknown option (the nearest known one is named), or a bad value.
    """
    known = kind.model_fields
    for option in options:
        if option not in known:
            raise ConfigError(
                f"model.options: mbconv has no option {option!r}{did_you_mean(option, known)}"
            )
    try:
        checked = kind.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"model.options.{where} of mbconv: {first['msg']}, got {first['input']!r}"
        ) from error
    checked.plan()
    return checked


def _check_sizes(num_classes: int, channels: int, image_size: tuple[int, int]) -> None:
    if min(num_classes, channels, *image_size) < 1:
        raise InputError(
            "mbconv: num_classes, channels and image_size must be at least 1, got "
            f"{num_classes}, {channels} and {image_size}"
        )


def _check_layers(depths: Sequence[int], operations: Sequence[str], stages: int) -> None:
    if len(depths) != stages or not all(1 <= depth <= _MAX_DEPTH for depth in depths):
        raise InputError(
            f"mbconv: depths must be {stages} numbers from 1 to {_MAX_DEPTH}, got {list(depths)}"
        )
    for operation in operations:
        check_operation(operation)
    if not operations or len(set(operations)) < len(operations):
        raise InputError(f"mbconv: expected operations, each once, got {list(operations)}")
