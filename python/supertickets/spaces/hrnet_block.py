"""The search block: an inverted residual with several kernel sizes, whose channels are atoms.

An atom is one hidden channel of one kernel size: a row of the expansion, a depthwise filter and a
column of the projection. It can be removed without touching anything outside its block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.spaces.hrnet_transformer import LightTransformer


@dataclass(frozen=True)
class NormOptions:
    """Of every batch norm of a net: weight of the newest batch, and the number under the root."""

    momentum: float = 0.1
    eps: float = 1e-5

    def make(self, channels: int) -> nn.BatchNorm2d:
        """Make a batch norm."""
        return nn.BatchNorm2d(channels, momentum=self.momentum, eps=self.eps)


class ConvNormRelu(nn.Sequential):
    """A convolution that keeps or halves the size, batch norm and ReLU."""

    def __init__(
        self, channels: int, outputs: int, kernel: int, stride: int, norm: NormOptions
    ) -> None:
        super().__init__(
            nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, bias=False),
            norm.make(outputs),
            nn.ReLU(),
        )


class AtomOperation(nn.Module):
    """One kernel size of a search block: expand, convolve each channel, project.

    Attributes:
        norm: The batch norm after the depthwise convolution; its weight is each atom's gamma.
    """

    def __init__(
        self, channels: int, outputs: int, hidden: int, kernel: int, stride: int, norm: NormOptions
    ) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.expand_norm = norm.make(hidden)
        self.depthwise = nn.Conv2d(
            hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False
        )
        self.norm = norm.make(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, outputs, ceil(H / stride), ceil(W / stride)]``."""
        x = F.relu(self.expand_norm(self.expand(x)))
        x = F.relu(self.norm(self.depthwise(x)))
        projected: Tensor = self.project(x)
        return projected


class AtomBlock(nn.Module):
    """Sum of the operations, one batch norm, and a skip around them.

    The skip is the identity where shapes allow, else a 1x1 convolution in as many groups as divide
    both channel counts. A block without operations is its skip plus ``shift``, the bias that the
    batch norm of its last operation had.

    Args:
        channels: Input channels.
        outputs: Output channels.
        stride: 1 or 2.
        hidden: Kernel size to number of atoms; those with none are left out.
        norm: Options of the batch norms.
        tokens: Of the transformer beside the convolutions, 0 for none; it stands only in blocks
            whose skip is the identity.
    """

    norm: nn.BatchNorm2d | None
    shift: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        outputs: int,
        stride: int,
        hidden: Mapping[int, int],
        norm: NormOptions,
        tokens: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.outputs, self.stride = channels, outputs, stride
        self.operations = nn.ModuleDict(
            {
                str(kernel): AtomOperation(channels, outputs, atoms, kernel, stride, norm)
                for kernel, atoms in sorted(hidden.items())
                if atoms
            }
        )
        same = stride == 1 and channels == outputs
        self.norm = norm.make(outputs)
        self.register_parameter("shift", None)
        self.skip: nn.Module = (
            nn.Identity()
            if same
            else nn.Conv2d(
                channels, outputs, 1, stride, groups=math.gcd(channels, outputs), bias=False
            )
        )
        self.transformer = (
            LightTransformer(channels, tokens, norm=norm.make) if tokens and same else None
        )
        if not self.operations:
            self.become_skip()

    @property
    def atoms(self) -> dict[int, int]:
        """Kernel size to number of atoms; ``{}`` for a block that has vanished."""
        return {int(kernel): op.project.in_channels for kernel, op in self.named_operations()}

    def named_operations(self) -> list[tuple[str, AtomOperation]]:
        """Give the operations by the name of their kernel size, the smallest first."""
        return [(name, cast("AtomOperation", op)) for name, op in self.operations.items()]

    def become_skip(self) -> None:
        """Leave out the batch norm after the last operation has gone; its bias stays as a shift.

        In training mode the output stays exactly what it was with atoms of gamma 0: a batch norm of
        a constant gives its bias.
        """
        assert self.norm is not None
        assert not self.operations
        self.shift = self.norm.bias
        self.norm = None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, outputs, ceil(H / stride), ceil(W / stride)]``."""
        past = x if self.transformer is None else self.transformer(x)
        if self.norm is None:
            assert self.shift is not None
            skipped: Tensor = self.skip(past) + self.shift[:, None, None]
            return skipped
        first, *rest = [op(x) for op in self.operations.values()]
        for other in rest:
            first = first + other
        summed: Tensor = self.skip(past) + self.norm(first)
        return summed
