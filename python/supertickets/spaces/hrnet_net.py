"""The multi-branch, multi-resolution supernet of SuperTickets, and its heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.spaces.hrnet_block import AtomBlock, ConvNormRelu, NormOptions
from supertickets.tasks import TaskName

Stage: TypeAlias = Sequence[tuple[int, int]]
"""For each branch, the finest first: number of blocks, channels."""
MakeBlock: TypeAlias = Callable[[str, int, int, int], AtomBlock]
"""``(name in the net, input channels, output channels, stride)``."""


class Hrnet(nn.Module):
    """Branches at halved resolutions, fused with their neighbours before every stage.

    Args:
        stem: Channels and stride of each convolution of the stem.
        stages: At least one; a stage has as many branches as the one before, or more.
        head: ``classification`` gives logits ``[N, num_classes]``; the others maps ``[N,
            num_classes, h, w]`` at the resolution of the finest branch.
        head_channels: For classification: channels per branch before the branches are added up.
        last_channels: Channels before the classifier.
        dropout: Before a linear classifier.
        num_classes: Outputs: classes, or key points.
        channels: Input channels.
        norm: Options of the batch norms.
        make_block: Makes the search block of a name.
    """

    def __init__(
        self,
        *,
        stem: Sequence[tuple[int, int]],
        stages: Sequence[Stage],
        head: TaskName,
        head_channels: Sequence[int],
        last_channels: int,
        dropout: float,
        num_classes: int,
        channels: int,
        norm: NormOptions,
        make_block: MakeBlock,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        for width, stride in stem:
            self.stem.append(ConvNormRelu(channels, width, 3, stride, norm))
            channels = width
        widths = [channels]
        self.fusions, self.stages = nn.ModuleList(), nn.ModuleList()
        for index, stage in enumerate(stages):
            after = [width for _, width in stage]
            self.fusions.append(_Fusion(f"fusions.{index}", widths, after, make_block))
            self.stages.append(_parallel(f"stages.{index}", stage, make_block))
            widths = after
        self.classifier: nn.Module
        if head == "classification":
            self.head: nn.Module = _PyramidHead(
                widths, head_channels, last_channels, norm, make_block
            )
            self.dropout: nn.Module = nn.Dropout(dropout)
            self.classifier = nn.Linear(last_channels, num_classes)
        else:
            self.head = _MapHead(widths, last_channels, make_block)
            self.dropout = nn.Identity()
            self.classifier = nn.Conv2d(last_channels, num_classes, 1)

    @property
    def kept_dense(self) -> list[str]:
        """Layers that pruning leaves alone: the classifier and the layers of transformers."""
        inside = [
            f"{name}.transformer."
            for name, module in self.named_modules()
            if isinstance(module, AtomBlock) and module.transformer is not None
        ]
        return ["classifier"] + [
            name
            for name, module in self.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear)) and name.startswith(tuple(inside))
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[N, channels, H, W]`` to logits or maps."""
        xs = [self.stem(x)]
        for fusion, stage in zip(self.fusions, self.stages, strict=True):
            xs = fusion(xs)
            branches = cast("nn.ModuleList", stage)
            xs = [branch(x) for branch, x in zip(branches, xs, strict=True)]
        outputs: Tensor = self.classifier(self.dropout(self.head(xs)))
        return outputs


def _parallel(name: str, stage: Stage, make_block: MakeBlock) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Sequential(*(make_block(f"{name}.{branch}.{i}", width, width, 1) for i in range(blocks)))
        for branch, (blocks, width) in enumerate(stage)
    )


class _Fusion(nn.Module):
    """Each branch becomes a sum over itself and its neighbours; new branches grow from the last."""

    def __init__(
        self, name: str, before: Sequence[int], after: Sequence[int], make_block: MakeBlock
    ) -> None:
        super().__init__()
        self.branches = len(after)
        self.paths = nn.ModuleDict()
        kept = min(len(before), len(after))
        for target in range(kept):
            for source in range(max(target - 1, 0), min(target + 2, len(before))):
                stride = 2 if source < target else 1
                self._add(name, source, target, before[source], after[target], stride, make_block)
        for target in range(kept, len(after)):
            self._add(name, target - 1, target, after[target - 1], after[target], 2, make_block)

    def _add(
        self,
        name: str,
        source: int,
        target: int,
        channels: int,
        outputs: int,
        stride: int,
        make_block: MakeBlock,
    ) -> None:
        key = f"{source}to{target}"
        self.paths[key] = make_block(f"{name}.paths.{key}", channels, outputs, stride)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """Map one tensor per branch to one per branch of the next stage."""
        fused: list[Tensor] = []
        for target in range(min(len(xs), self.branches)):
            total: Tensor | None = None
            for source in range(max(target - 1, 0), min(target + 2, len(xs))):
                y = self.paths[f"{source}to{target}"](xs[source])
                if source > target:
                    y = F.interpolate(y, scale_factor=2, mode="nearest")
                    y = _resized(y, xs[target].shape[2:])
                total = y if total is None else total + y
            assert total is not None
            fused.append(F.relu(total))
        while len(fused) < self.branches:
            target = len(fused)
            fused.append(self.paths[f"{target - 1}to{target}"](fused[-1]))
        return fused


class _PyramidHead(nn.Module):
    """From fine to coarse: widen each branch, halve the sum, and pool what the last one gives."""

    def __init__(
        self,
        widths: Sequence[int],
        head_channels: Sequence[int],
        last_channels: int,
        norm: NormOptions,
        make_block: MakeBlock,
    ) -> None:
        super().__init__()
        pairs = zip(widths, head_channels, strict=True)
        self.widen = nn.ModuleList(
            make_block(f"head.widen.{i}", width, wide, 1) for i, (width, wide) in enumerate(pairs)
        )
        self.halve = nn.ModuleList(
            make_block(f"head.halve.{i}", head_channels[i], head_channels[i + 1], 2)
            for i in range(len(widths) - 1)
        )
        self.last = ConvNormRelu(head_channels[-1], last_channels, 1, 1, norm)

    def forward(self, xs: list[Tensor]) -> Tensor:
        """Give ``[N, last_channels]``."""
        total: Tensor = self.widen[0](xs[0])
        for halve, widen, x in zip(self.halve, list(self.widen)[1:], xs[1:], strict=True):
            total = widen(x) + halve(total)
        pooled: Tensor = self.last(total).mean(dim=(2, 3))
        return pooled


class _MapHead(nn.Module):
    """All branches at the finest resolution, side by side, through one block."""

    def __init__(self, widths: Sequence[int], last_channels: int, make_block: MakeBlock) -> None:
        super().__init__()
        self.join = make_block("head.join", sum(widths), last_channels, 1)

    def forward(self, xs: list[Tensor]) -> Tensor:
        """Give ``[N, last_channels, h, w]``."""
        size = xs[0].shape[2:]
        joined: Tensor = self.join(torch.cat([_resized(x, size) for x in xs], dim=1))
        return joined


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def atom_blocks(model: nn.Module) -> dict[str, AtomBlock]:
    """Find the search blocks of a net by their names, in the net's order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, AtomBlock)}


def drawn_blocks(model: nn.Module) -> dict[str, dict[str, int]]:
    """Read the architecture as it stands: block name -> kernel size -> atoms.

    Returns:
        What the option ``blocks`` of the net takes, so that an equal one can be built.
    """
    return {
        name: {str(kernel): atoms for kernel, atoms in block.atoms.items()}
        for name, block in atom_blocks(model).items()
    }


def block_maker(
    kernels: Sequence[int],
    expansion: float,
    norm: NormOptions,
    *,
    tokens: int = 0,
    blocks: Mapping[str, Mapping[str, int]] | None = None,
    made: set[str] | None = None,
) -> MakeBlock:
    """Make a maker of search blocks.

    Args:
        kernels: Kernel sizes of a block that has not been searched.
        expansion: Its atoms per kernel size and input channel.
        norm: Options of the batch norms.
        tokens: Of the transformer, 0 for none.
        blocks: Atoms of searched blocks, as :func:`drawn_blocks` gives them.
        made: Takes the names of the blocks that were made.
    """

    def make(name: str, channels: int, outputs: int, stride: int) -> AtomBlock:
        hidden = dict.fromkeys(kernels, round(expansion * channels))
        if blocks is not None and name in blocks:
            hidden = {int(kernel): atoms for kernel, atoms in blocks[name].items()}
        if made is not None:
            made.add(name)
        return AtomBlock(channels, outputs, stride, hidden, norm, tokens)

    return make
