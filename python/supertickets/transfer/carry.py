"""The network of a ticket rebuilt for another task, with what fits of its masks and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from supertickets.data import ImageData
from supertickets.errors import InputError
from supertickets.masked_modules import put_masks_
from supertickets.masks import mask_of
from supertickets.spaces import ModelConfig, build_model, options_for_task, output_layer
from supertickets.ticket import Ticket


@dataclass(frozen=True)
class Carried:
    """A network for the new task.

    Attributes:
        model: On the CPU, with a masked layer per mask.
        architecture: As a ticket describes it.
        reused: Keys of the state dict that the old network has too, in the same shape: all but the
            layer of the outputs and a head of another kind.
        new: The other keys.
    """

    model: nn.Module
    architecture: dict[str, Any]
    reused: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks by weight key, as they stand in the model."""
        found = {f"{name}.weight": mask_of(m) for name, m in self.model.named_modules()}
        return {key: mask for key, mask in found.items() if mask is not None}

    @property
    def new_parameters(self) -> list[nn.Parameter]:
        """The parameters that the old network lacks."""
        new = set(self.new)
        return [p for name, p in self.model.named_parameters() if name in new]

    @property
    def kept_modules(self) -> list[nn.Module]:
        """The modules all of whose tensors, at least one, are reused."""
        reused = set(self.reused)
        found = []
        for name, module in self.model.named_modules():
            prefix = f"{name}." if name else ""
            keys = [
                f"{prefix}{key}" for key in module.state_dict() if key.rpartition(".")[2] != "mask"
            ]
            if keys and all(key in reused for key in keys):
                found.append(module)
        return found


def carry(
    ticket: Ticket,
    data: ImageData,
    *,
    seed: int,
    model: ModelConfig | None = None,
    weights: Mapping[str, Tensor] | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> Carried:
    """Build a ticket's network for other data, and fill in what is reused.

    Args:
        ticket: Gives the architecture.
        data: Gives task, outputs and channels.
        seed: Draws what is new.
        model: Names the user's factory for a ticket that needs one.
        weights: Tensors to reuse; ``None``: the ticket's own; ``{}``: none.
        masks: Masks to put on reused weights; ``None``: the ticket's own; ``{}``: none.

    Returns:
        The network.

    Raises:
        InputError: The channels differ, the weights are of another network, or a factory is needed
            and not named.
        ConfigError: The network has no feature maps for the task.
    """
    _check_channels(ticket, data)
    config = _model_config(ticket, model, data)
    net = build_model(config, num_classes=data.num_classes, channels=data.channels, seed=seed)
    reused = _shared_keys(ticket, net)
    given = ticket.tensors if weights is None else weights
    state = net.state_dict()
    for key in reused if given else ():
        if key not in given or given[key].shape != state[key].shape:
            raise InputError(
                f"transfer: the weights to reuse lack {key!r} {list(state[key].shape)}"
            )
        state[key] = given[key]
    net.load_state_dict(state)
    wanted = ticket.masks if masks is None else masks
    net = put_masks_(net, {key: mask.clone() for key, mask in wanted.items() if key in set(reused)})
    return Carried(
        model=net,
        architecture={
            "space": config.space,
            "name": config.name,
            "options": config.options,
            "num_classes": data.num_classes,
            "channels": data.channels,
            "image_size": list(data.image_size),
        },
        reused=reused,
        new=tuple(key for key in state if key not in set(reused)),
    )


def _check_channels(ticket: Ticket, data: ImageData) -> None:
    expected = ticket.architecture["channels"]
    if expected != data.channels:
        raise InputError(
            f"transfer: the ticket's network expects images of {expected} channel(s), but the data "
            f"set {data.name} has {data.channels}"
        )


def _model_config(ticket: Ticket, model: ModelConfig | None, data: ImageData) -> ModelConfig:
    """Describe the network for the data's task; a ticket alone never causes an import."""
    space, name = ticket.architecture["space"], ticket.architecture["name"]
    if space == "import" and (model is None or model.space != "import" or model.name != name):
        raise InputError(
            f"the ticket holds the network {name}, which is not of this package: give it with "
            f"--model {name}"
        )
    options = options_for_task(space, name, ticket.architecture["options"], data.task)
    return ModelConfig(space=space, name=name, options=options)


def _shared_keys(ticket: Ticket, net: nn.Module) -> tuple[str, ...]:
    """List the keys of the new network that the ticket has, but for those of its outputs."""
    outputs = f"{output_layer(net)}."
    return tuple(
        key
        for key, tensor in net.state_dict().items()
        if not key.startswith(outputs)
        and key in ticket.tensors
        and ticket.tensors[key].shape == tensor.shape
    )
