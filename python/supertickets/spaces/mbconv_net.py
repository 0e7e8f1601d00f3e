"""Networks of the mbconv space: stem, stages of chosen blocks, head; and backbones of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets.spaces.choice_net import PathNet
from supertickets.spaces.mbconv_blocks import (
    Cost,
    MBConv,
    Shape,
    Style,
    conv_bn_act,
    conv_cost,
    operation_cost,
)

_SEPARABLE = "k3e1"


@dataclass(frozen=True)
class Plan:
    """Everything of a network but the operations.

    Attributes:
        stem: Channels of the first convolution and of the fixed block after it.
        stem_stride: Of the first convolution.
        channels: Of each stage.
        strides: Of the first layer of each stage.
        last: Channels of the 1x1 convolution after the stages.
        features: Of the layer after pooling, which the classifier reads.
        style: Squeeze and activation of all blocks.
        dropout: Before the classifier.
    """

    stem: int
    stem_stride: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    last: int
    features: int
    style: Style
    dropout: float = 0.0

    def shapes(self, depths: Sequence[int], image_size: tuple[int, int]) -> tuple[Shape, ...]:
        """Give the shapes of all layers, stage by stage.

        Args:
            depths: Layers of each stage.
            image_size: Height and width of the images.
        """
        size = Shape(0, 0, self.stem_stride, *image_size).output_size
        shapes, inputs = [], self.stem
        for channels, stride, depth in zip(self.channels, self.strides, depths, strict=True):
            for layer in range(depth):
                shape = Shape(inputs, channels, stride if layer == 0 else 1, *size)
                shapes.append(shape)
                inputs, size = channels, shape.output_size
        return tuple(shapes)

    def build_stem(self, channels: int) -> nn.Module:
        """Build the first convolution and the fixed block, for images of ``channels`` channels."""
        block = MBConv(Shape(self.stem, self.stem), 3, 1, style=self.style)
        first = conv_bn_act(channels, self.stem, 3, stride=self.stem_stride, act=self.style.act())
        return nn.Sequential(*first, block)

    def build_head(self, num_classes: int) -> nn.Module:
        """Build what turns the last stage's output into logits."""
        return nn.Sequential(
            *conv_bn_act(self.channels[-1], self.last, 1, act=self.style.act()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(self.last, self.features),
            self.style.act(),
            nn.Dropout(self.dropout),
            nn.Linear(self.features, num_classes),
        )

    def fixed_cost(self, last: Shape, channels: int, num_classes: int, image: Shape) -> Cost:
        """Count stem and head.

        Args:
            last: Shape of the last layer.
            channels: Of the images.
            num_classes: Size of the output.
            image: The stem's stride, and the size of the images.
        """
        stem = conv_cost(9 * channels * self.stem, image.output_pixels, self.stem)
        block = Shape(self.stem, self.stem, 1, *image.output_size)
        stem += operation_cost(_SEPARABLE, block, self.style)
        head = conv_cost(last.outputs * self.last, last.output_pixels, self.last)
        head += conv_cost(self.last * self.features, 1, self.features, bias=True)
        return stem + head + conv_cost(self.features * num_classes, 1, num_classes, bias=True)


class Backbone(nn.Module):
    """Feature maps at several strides, for a head that predicts at every place.

    Attributes:
        strides: Pixels of the image for a pixel of each map, finest first.
        channels: Of each map.

    Args:
        stem: As in :class:`PathNet`, whose keys it shares.
        layers: The blocks, up to the last that is needed.
        taps: Index of the block that each map is the output of.
        strides: See above.
        channels: See above.
    """

    def __init__(
        self,
        stem: nn.Module,
        layers: Sequence[nn.Module],
        *,
        taps: Sequence[int],
        strides: Sequence[int],
        channels: Sequence[int],
    ) -> None:
        super().__init__()
        self.stem = stem
        self.layers = nn.Sequential(*layers)
        self.strides, self.channels = tuple(strides), tuple(channels)
        self._taps = frozenset(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give the maps, ``[N, channels[i], ceil(H / strides[i]), ceil(W / strides[i])]``."""
        maps = []
        x = self.stem(x)
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self._taps:
                maps.append(x)
        return maps


class MBConvNet(PathNet):
    """A path of the mbconv space on its own.

    Attributes:
        strides: For each block, pixels of the image for a pixel of its output.
        channels: Of each block's output.
    """

    def __init__(
        self,
        stem: nn.Module,
        layers: Sequence[nn.Module],
        head: nn.Module,
        *,
        stem_stride: int,
        shapes: Sequence[Shape],
    ) -> None:
        super().__init__(stem, layers, head)
        strides, stride = [], stem_stride
        for shape in shapes:
            stride *= shape.stride
            strides.append(stride)
        self.strides = tuple(strides)
        self.channels = tuple(shape.outputs for shape in shapes)

    def backbone(self, strides: Sequence[int] | None = None) -> Backbone:
        """Give the blocks as a backbone, which shares them with this network.

        Args:
            strides: At which to give the last feature map; by default 4, 8, 16 and 32 as far as
                the network has them, or all that it has if it ends sooner than 4.

        Raises:
            InputError: The network has no map at a stride.
        """
        last = {stride: index for index, stride in enumerate(self.strides)}
        if strides is None:
            strides = [stride for stride in last if stride >= 4] or list(last)
        for stride in strides:
            if stride not in last:
                raise InputError(
                    f"backbone: no map of stride {stride}; the network has {sorted(last)}"
                )
        taps = sorted(last[stride] for stride in set(strides))
        if not taps:
            raise InputError("backbone: expected at least one stride")
        return Backbone(
            self.stem,
            list(self.layers)[: taps[-1] + 1],
            taps=taps,
            strides=[self.strides[tap] for tap in taps],
            channels=[self.channels[tap] for tap in taps],
        )
