"""Where the atoms of a network are: every operation of every inverted-residual block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.errors import InputError
from supertickets.spaces.hrnet_block import AtomBlock


@dataclass(frozen=True, eq=False)
class Atoms:
    """The atoms of one operation, and every tensor that has an entry per atom.

    Attributes:
        name: Of the operation in the model.
        block: Name of its block.
        kernel: Size of the depthwise convolution.
        gamma: The batch norm whose weights are the atoms' gammas.
        convolutions: Names of the expansion, if there is one, the depthwise convolution and the
            projection.
        project: The projection.
        total: The batch norm that sees the projection, alone or in a sum.
        activation: Between ``gamma`` and the projection.
        slices: Module, name of its tensor, and the dimension that runs over atoms.
        exact: Whether nothing stands between activation and projection, so that an atom whose gamma
            is 0 adds a constant.
        removable: Whether all atoms may go, and the operation with them.
    """

    name: str
    block: str
    kernel: int
    gamma: nn.BatchNorm2d
    convolutions: tuple[str, ...]
    project: nn.Conv2d
    total: nn.BatchNorm2d
    activation: Callable[[Tensor], Tensor]
    slices: tuple[tuple[nn.Module, str, int], ...]
    exact: bool
    removable: bool

    @property
    def count(self) -> int:
        """Number of atoms."""
        return self.gamma.num_features


def find_atoms(model: nn.Module) -> list[Atoms]:
    """Find the operations of all inverted-residual blocks, in the model's order.

    Blocks are those of the space ``hrnet``, and every module with children ``expand``,
    ``depthwise`` and ``project``, each a sequence of a convolution, a batch norm and, but for the
    last, an activation (the blocks of the space ``mbconv``, or a user's own). A block without
    expansion is left alone: its channels are those of the block before. Where all operations of all
    blocks have vanished, the list is empty.

    Raises:
        InputError: There is no block.
    """
    found: list[Atoms] = []
    blocks = 0
    for name, module in model.named_modules():
        if isinstance(module, AtomBlock):
            blocks += 1
            found += _of_atom_block(name, module)
        elif _is_inverted_residual(module):
            found.append(_of_inverted_residual(name, module))
    if not found and not blocks:
        raise InputError(
            f"two-in-one: {type(model).__name__} has no inverted-residual block to search; "
            "expected a net of the space hrnet, or blocks with expand, depthwise and project"
        )
    return found


def _of_atom_block(name: str, block: AtomBlock) -> Iterator[Atoms]:
    for key, op in block.named_operations():
        where = f"{name}.operations.{key}"
        assert block.norm is not None
        yield Atoms(
            name=where,
            block=name,
            kernel=int(key),
            gamma=op.norm,
            convolutions=tuple(f"{where}.{part}" for part in ("expand", "depthwise", "project")),
            project=op.project,
            total=block.norm,
            activation=F.relu,
            slices=(
                *_rows(op.expand),
                *_norm(op.expand_norm),
                *_rows(op.depthwise),
                *_norm(op.norm),
                *_columns(op.project),
            ),
            exact=True,
            removable=True,
        )


def _is_inverted_residual(module: nn.Module) -> bool:
    children = dict(module.named_children())
    parts = [children.get(name) for name in ("expand", "depthwise", "project")]
    return all(
        isinstance(part, nn.Sequential)
        and len(part) >= 2
        and isinstance(part[0], nn.Conv2d)
        and isinstance(part[1], nn.BatchNorm2d)
        for part in parts
    )


def _of_inverted_residual(name: str, block: nn.Module) -> Atoms:
    expand, expand_norm = _conv_and_norm(block, "expand")
    depthwise, gamma = _conv_and_norm(block, "depthwise")
    project, total = _conv_and_norm(block, "project")
    after = list(block.get_submodule("depthwise").children())[2:]
    prefix = f"{name}." if name else ""
    gate = [m for part, m in block.named_children() if part == "se" for m in m.modules()]
    gates = [module for module in gate if isinstance(module, (nn.Conv2d, nn.Linear))]
    if len(gates) not in (0, 2):
        raise InputError(f"two-in-one: {name}.se must have two layers, got {len(gates)}")
    gated = [*_columns(gates[0]), *_rows(gates[1])] if gates else []
    return Atoms(
        name=name,
        block=name,
        kernel=depthwise.kernel_size[0],
        gamma=gamma,
        convolutions=tuple(f"{prefix}{part}.0" for part in ("expand", "depthwise", "project")),
        project=project,
        total=total,
        activation=nn.Sequential(*after),
        slices=(
            *_rows(expand),
            *_norm(expand_norm),
            *_rows(depthwise),
            *_norm(gamma),
            *gated,
            *_columns(project),
        ),
        exact=not gates,
        removable=False,
    )


def _conv_and_norm(block: nn.Module, part: str) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv, norm = list(block.get_submodule(part).children())[:2]
    return cast("nn.Conv2d", conv), cast("nn.BatchNorm2d", norm)


def _rows(conv: nn.Conv2d | nn.Linear) -> Iterator[tuple[nn.Module, str, int]]:
    yield conv, "weight", 0
    if conv.bias is not None:
        yield conv, "bias", 0
    if isinstance(getattr(conv, "mask", None), Tensor):
        yield conv, "mask", 0


def _columns(conv: nn.Conv2d | nn.Linear) -> Iterator[tuple[nn.Module, str, int]]:
    yield conv, "weight", 1
    if isinstance(getattr(conv, "mask", None), Tensor):
        yield conv, "mask", 1


def _norm(norm: nn.BatchNorm2d) -> Iterator[tuple[nn.Module, str, int]]:
    for tensor in ("weight", "bias", "running_mean", "running_var"):
        if getattr(norm, tensor) is not None:
            yield norm, tensor, 0


def parameter_names(model: nn.Module) -> dict[int, str]:
    """Give the name of each parameter and buffer by its ``id``."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {id(tensor): name for name, tensor in named}


def gammas(atoms: list[Atoms]) -> list[Tensor]:
    """Give the absolute gammas of each operation."""
    return [one.gamma.weight.detach().abs() for one in atoms]


def averaged_gammas(
    atoms: list[Atoms], model: nn.Module, averages: dict[str, Tensor] | None
) -> list[Tensor]:
    """Give the absolute averaged gammas, or the model's own where no average is kept.

    Args:
        atoms: Of ``model``.
        model: The model.
        averages: By parameter name.
    """
    if averages is None:
        return gammas(atoms)
    names = parameter_names(model)
    return [averages[names[id(one.gamma.weight)]].abs() for one in atoms]


def block_atoms(atoms: list[Atoms]) -> dict[str, dict[int, int]]:
    """Give the atoms per block and kernel size, as they stand."""
    found: dict[str, dict[int, int]] = {}
    for one in atoms:
        found.setdefault(one.block, {})[one.kernel] = one.count
    return found


def detached(tensor: Tensor, index: Tensor, dim: int) -> Tensor:
    """Take the entries ``index`` along ``dim``; in the layout the tensor had."""
    taken = tensor.detach().index_select(dim, index)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return taken.contiguous(memory_format=torch.channels_last)
    return taken.contiguous()
