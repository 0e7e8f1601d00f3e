"""What every route of the Jacobian operators starts from: checked arguments, chosen parameters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from supertickets_ext._graph import aliases, gram_state

Parameters = str | Callable[[str, nn.Parameter], bool]
_MODES = ("coupled", "independent")
_REDUCTIONS = ("sum", "block")


@dataclass(frozen=True)
class Problem:
    """One call of a public function."""

    op: str
    model: nn.Module
    coupled: bool
    names: tuple[str, ...]
    """Of the chosen parameters, in the model's order."""
    budget: int
    """Bytes that may be held besides inputs, result and one backward pass."""

    def chosen(self) -> dict[str, nn.Parameter]:
        """The chosen parameters themselves."""
        named = dict(self.model.named_parameters())
        return {name: named[name] for name in self.names}

    @contextmanager
    def forward(self) -> Iterator[tuple[Callable[[Tensor], Tensor], dict[str, Tensor]]]:
        """The model as a function in the mode of the problem, and its chosen leaves.

        The function gives logits ``[N, C]``. Gradients reach the leaves alone, and batch norms
        update clones.
        """
        state, buffers = aliases(self.model)
        for name, tensor in state.items():
            tensor.requires_grad_(name in self.names)

        def logits(x: Tensor) -> Tensor:
            out = functional_call(self.model, {**state, **buffers}, (x.detach(),))
            return checked_logits(self.op, out, x)

        with gram_state(self.model, self.coupled), torch.enable_grad():
            yield logits, {name: state[name] for name in self.names}


def problem(
    op: str,
    model: nn.Module,
    x: Tensor,
    mode: str,
    parameters: Parameters,
    memory_budget: int | None,
    reduction: str = "sum",
) -> Problem:
    """Check the arguments that all public functions share.

    Raises:
        TypeError: An argument is of another type, or x is not floating point.
        ValueError: A word, a shape or the budget does not fit, or no parameter is chosen.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model must be an nn.Module, got {type(model).__name__}")
    _check_batch(op, "x", x)
    for name, value, words in (("mode", mode, _MODES), ("reduction", reduction, _REDUCTIONS)):
        if value not in words:
            raise ValueError(f"{op}: {name} must be {' or '.join(map(repr, words))}, got {value!r}")
    if memory_budget is not None and (isinstance(memory_budget, bool) or memory_budget <= 0):
        raise ValueError(
            f"{op}: memory_budget must be a positive number of bytes, got {memory_budget}"
        )
    names = _choose(op, model, parameters)
    return Problem(op, model, mode == "coupled", names, memory_budget or _default_budget())


def _check_batch(op: str, name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(x).__name__}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: {name} must be float32 or float64, got {x.dtype}")
    if x.dim() < 1 or len(x) == 0:
        raise ValueError(f"{op}: {name} must hold at least one sample, got shape {tuple(x.shape)}")


def check_second_batch(op: str, x: Tensor, other: object) -> None:
    """Check x2 of a pair of batches."""
    _check_batch(op, "x2", other)
    assert isinstance(other, Tensor)
    if other.shape[1:] != x.shape[1:] or other.dtype != x.dtype:
        raise ValueError(
            f"{op}: x2 must hold samples like x1's, {tuple(x.shape[1:])} {x.dtype}, "
            f"got {tuple(other.shape[1:])} {other.dtype}"
        )


def checked_logits(op: str, out: object, x: Tensor) -> Tensor:
    """The model's output as ``[N, C]``."""
    if not isinstance(out, Tensor) or out.dim() < 1 or len(out) != len(x):
        given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"{op}: model must return one tensor with a row for each of the {len(x)} samples, "
            f"got {given}"
        )
    return out.reshape(len(x), -1)


def _choose(op: str, model: nn.Module, parameters: Parameters) -> tuple[str, ...]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if callable(parameters):
        names = tuple(name for name, p in named.items() if parameters(name, p))
    elif parameters == "all":
        names = tuple(named)
    elif parameters == "weights":
        names = tuple(name for name in named if name.endswith("weight"))
    else:
        raise ValueError(
            f"{op}: parameters must be 'weights', 'all' or a function of name and parameter, "
            f"got {parameters!r}"
        )
    if not names:
        raise ValueError(f"{op}: parameters must choose at least one that requires a gradient")
    return names


def _default_budget() -> int:
    """A quarter of the machine's memory."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // 4
