"""From a validated description to an initialised network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from supertickets.errors import ConfigError, InputError
from supertickets.seeds import derive_seed, generator
from supertickets.spaces.cell_spaces import build_cell_net, cell_space_names, check_cell_net
from supertickets.spaces.hrnet import build_hrnet, check_hrnet
from supertickets.spaces.imported import call_factory, check_import_path, import_factory
from supertickets.spaces.initialise import initialise_for_training_
from supertickets.spaces.mbconv_text import build_mbconv_net, check_mbconv_net
from supertickets.spaces.plain import build_plain, check_plain
from supertickets.spaces.weights import load_weights


class ModelConfig(BaseModel):
    """Which network to build.

    Attributes:
        space: ``"plain"`` for a net of this package, ``"nasbench201"`` or ``"darts"`` for the
            evaluation network of an architecture, ``"mbconv"`` for a path of the space of Cream,
            ``"hrnet"`` for a multi-resolution net whose blocks can be searched, ``"import"`` for a
            user's own.
        name: A plain net, an architecture as the field writes it, or ``"package.module:factory"``.
        options: Keyword options of the net, such as ``width``; checked before anything is built.
        weights: A state-dict file to start from (safetensors, or readable with ``weights_only``).
    """

    model_config = ConfigDict(extra="forbid")

    space: Literal["plain", "nasbench201", "darts", "mbconv", "hrnet", "import"] = "plain"
    name: str = "digits"
    options: dict[str, Any] = {}
    weights: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.space == "import":
            check_import_path(self.name)
        else:
            _SPACES[self.space].check(self.name, self.options)
        return self


def build_model(
    config: ModelConfig, *, num_classes: int | None, channels: int | None, seed: int
) -> nn.Module:
    """Build the network, initialise it from ``seed``, and load ``config.weights`` if given.

    Args:
        config: What to build.
        num_classes: Size of the output; a user's own factory gets it only if it has a parameter of
            that name, and may do without.
        channels: Input channels; the same.
        seed: Equal seeds give equal weights; the global generator is left as it was.

    Returns:
        The network in training mode, on the CPU.

    Raises:
        ConfigError: The factory cannot be imported or called, or a size is missing.
        InputError: The weights do not fit.
    """
    sizes = {"num_classes": num_classes, "channels": channels}
    words = ("init", config.space, config.name)
    if config.space == "import":
        with _forked_rng(0):  # a module may draw while it is imported, which happens once
            factory = import_factory(config.name)
        with _forked_rng(derive_seed(seed, *words)):
            model = call_factory(factory, config.name, config.options, **sizes)
    elif num_classes is None or channels is None:
        raise ConfigError(f"the {config.space} net {config.name!r} needs num_classes and channels")
    else:
        _check_sizes(config.name, num_classes=num_classes, channels=channels)
        with _forked_rng(derive_seed(seed, *words)):
            space = _SPACES[config.space]
            model = space.build(
                config.name, config.options, num_classes=num_classes, channels=channels
            )
            if space.initialise is not None:
                space.initialise(model, torch.default_generator)
    if config.weights is not None:
        load_weights(model, config.weights)
    return model


def example_input(channels: int, image_size: tuple[int, int]) -> Tensor:
    """Make the input that traces and exports use.

    Args:
        channels: Input channels.
        image_size: Height and width in pixels.

    Returns:
        Float32 ``[1, channels, height, width]``; noise, always the same.
    """
    height, width = image_size
    if min(channels, height, width) < 1:
        raise InputError(
            f"an example needs channels and image_size of at least 1, got {channels}, {image_size}"
        )
    return torch.randn(1, channels, height, width, generator=generator(0, "example"))


def _check_sizes(name: str, **sizes: int) -> None:
    for size, value in sizes.items():
        if value < 1:
            raise ConfigError(f"{size} of {name} must be at least 1, got {value}")


def _he_convolutions_(model: nn.Module, generator: torch.Generator) -> None:
    """Initialise convolutions by He et al. 2015 (normal, fan out); the rest stays torch's own."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )


@contextmanager
def _forked_rng(seed: int) -> Iterator[None]:
    """Seed the global generators inside the block only: torch.nn modules initialise from them."""
    # torch.manual_seed would also queue a seed for CUDA, which outlives the block
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield


@dataclass(frozen=True)
class _Space:
    """How the nets of a space are checked, built and, where building does not, initialised."""

    check: Callable[[str, Mapping[str, Any]], object]
    build: Callable[..., nn.Module]
    initialise: Callable[[nn.Module, torch.Generator], None] | None


_SPACES = {
    "plain": _Space(check_plain, build_plain, _he_convolutions_),
    "mbconv": _Space(check_mbconv_net, build_mbconv_net, initialise_for_training_),
    "hrnet": _Space(check_hrnet, partial(build_hrnet, generator=torch.default_generator), None),
    **{
        name: _Space(
            partial(check_cell_net, name), partial(build_cell_net, name), _he_convolutions_
        )
        for name in cell_space_names()
    },
}
