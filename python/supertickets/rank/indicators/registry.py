"""What an indicator is, and the table of all of them."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from supertickets.errors import InputError, did_you_mean

Network = Literal["evaluation", "shallow", "proxy", "thin"]
"""The network that is trained in the end, the same with one cell a stage, the small proxy of
TE-NAS's kappa, or its one-channel network without a stem, see :class:`CellSpace`."""

Score = Callable[[nn.Module, Tensor, Tensor | None, torch.Generator], float]
"""``score(model, inputs [N, C, H, W], labels int64 [N] or None, generator)``."""


@dataclass(frozen=True)
class Indicator:
    """A number that is read off a network without training it.

    Attributes:
        name: Its word everywhere.
        score: Computes it. The model is initialised, and left as it was. The value may be
            infinite; it is NaN only if the network's own numbers are.
        higher_is_better: Its sign.
        needs_labels: Whether it reads ``labels``.
        network: What it is meant for.
        source: Who defined it.
    """

    name: str
    score: Score
    higher_is_better: bool
    needs_labels: bool
    network: Network
    source: str

    @property
    def sign(self) -> int:
        """1 where a higher value is better, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def module(self) -> str:
        """The module that registers it, where other processes find it."""
        return self.score.__module__

    @property
    def code(self) -> str:
        """The text of a user's function, so that a changed one counts as another; else empty."""
        if self.module.startswith("supertickets."):
            return ""
        try:
            return inspect.getsource(self.score)
        except (OSError, TypeError):  # typed in at a prompt
            return self.score.__qualname__


_INDICATORS: dict[str, Indicator] = {}


def indicator(
    name: str,
    *,
    higher_is_better: bool,
    needs_labels: bool = False,
    network: Network = "evaluation",
    source: str = "",
) -> Callable[[Score], Score]:
    """Register a function as an indicator; it is returned as it is.

    Args:
        name: New word for it.
        higher_is_better: Its sign.
        needs_labels: Whether it reads the labels.
        network: What it is meant for.
        source: Who defined it.

    Raises:
        InputError: The name is taken, or labels are asked for with the thin network, whose crops
            have none.

    Example:
        A user's own, found by :func:`get_indicator` afterwards::

            from supertickets.rank.indicators import indicator

            @indicator("weight_spread", higher_is_better=False)
            def weight_spread(model, inputs, labels, generator):
                with torch.no_grad():
                    stds = [p.std().log() for n, p in model.named_parameters() if p.dim() == 4]
                return float(torch.stack(stds).std())
    """

    def register(score: Score) -> Score:
        if name in _INDICATORS:
            raise InputError(f"indicator: the name {name!r} is taken")
        if needs_labels and network == "thin":
            raise InputError(f"indicator {name!r}: the crops of the thin network have no labels")
        _INDICATORS[name] = Indicator(name, score, higher_is_better, needs_labels, network, source)
        return score

    return register


def get_indicator(name: str) -> Indicator:
    """Give an indicator by name.

    Args:
        name: A registered name, or ``module:name``: the module, also one in the current folder, is
            imported first and registers it.

    Raises:
        InputError: There is none of that name; the nearest is named. Or the module cannot be
            imported.
    """
    module, colon, short = name.rpartition(":")
    if colon:
        import_indicators(module)
    if short not in _INDICATORS:
        raise InputError(f"no indicator {short!r}{did_you_mean(short, _INDICATORS)}")
    return _INDICATORS[short]


def import_indicators(module: str) -> None:
    """Import a module that registers indicators; one in the current folder is found, too.

    Raises:
        InputError: It cannot be imported.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"indicators of module {module!r}: cannot be imported: {error}") from error


def indicator_names() -> tuple[str, ...]:
    """Name every indicator."""
    return tuple(_INDICATORS)


def scratch(model: nn.Module) -> nn.Module:
    """Give a copy in training mode, whose tensors and statistics may be changed."""
    return copy.deepcopy(model).train().requires_grad_(True)


def need_labels(name: str, labels: Tensor | None, inputs: Tensor) -> Tensor:
    """Give the labels, or say that they are missing.

    Raises:
        InputError: There are none, or not one an input.
    """
    if labels is None or len(labels) != len(inputs):
        given = "none" if labels is None else str(len(labels))
        raise InputError(f"{name}: expected a label for each of {len(inputs)} inputs, got {given}")
    return labels


def weight_layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Give the convolutions and linear layers, whose weights the pruning indicators look at."""
    return [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


@contextmanager
def collect_outputs(
    model: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]
) -> Iterator[list[Tensor]]:
    """Collect what the modules of a kind give inside the block, in the order of the calls."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.append(output)

    hooks = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, kind)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
